import numpy as np
import pytest
import rasterio
from affine import Affine
from torch.utils.data import DataLoader

from geovit.apps.foundation.pretraining.crops import Crops, UnusablePlaceError
from geovit.datasets.collections import open_collection

SENSORS = ("S2L2A", "S1RTC")


def write(path, array, pitch):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = {"count": array.shape[0], "height": array.shape[1], "width": array.shape[2], "dtype": array.dtype}
    place = {"crs": "EPSG:32633", "transform": Affine(pitch, 0.0, 4e5, 0.0, -pitch, 5.8e6)}
    with rasterio.open(path, "w", driver="GTiff", blockysize=1, **shape, **place) as dst:
        dst.write(array)


@pytest.fixture
def folder(tmp_path):
    """Three places of 64 x 64 pixels at 10 m and 32 x 32 at 20 m, whose values are functions of where they are."""
    rows, columns = np.mgrid[:64, :64]
    for number, place in enumerate("abc"):
        ramp = 1010 + 20 * rows + columns + 100 * number
        write(tmp_path / "S2L2A" / f"{place}.tif", np.repeat(ramp[None], 12, 0).astype(np.uint16), 10.0)
        coarse = -1 - (20 * rows[::2, ::2] + columns[::2, ::2]) / 100
        write(tmp_path / "S1RTC" / f"{place}.tif", np.repeat(coarse[None], 2, 0).astype(np.float32), 20.0)
    return tmp_path


def crops(folder, *, keep_mib=256, check=True, **options):
    collection = open_collection(folder, keep_mib=keep_mib, check=check)
    return Crops(collection, **({"sensors": SENSORS, "size": 16, "per_epoch": 24, "seed": 3} | options))


def values(crop):
    return [crop["sentinel-2-l2a"].name, *(image.values for image in crop.values())]


def assert_same(first, second):
    for a, b in zip(values(first), values(second), strict=True):
        np.testing.assert_array_equal(a, b)


def test_sensors_show_the_same_ground(folder):
    for crop in crops(folder):
        fine, coarse = (image.values[0] for image in crop.values())
        assert fine.shape == (16, 16)
        assert coarse.shape == (8, 8)
        number = "abc".index(crop["sentinel-2-l2a"].name)
        expected = (fine + 0.1) * 1e4 - 1010 - 100 * number
        blocks = np.round(expected).reshape(8, 2, 8, 2).min((1, 3))  # of each 2 x 2, the pixel that the coarse one was made of
        np.testing.assert_allclose(coarse, -1 - blocks / 100, atol=1e-4)


def test_crop_depends_on_seed_epoch_and_index_alone(folder):
    first = crops(folder)
    assert_same(first[7], crops(folder, keep_mib=0)[7])
    names = [[values(crop)[1].tobytes() for crop in each] for each in (first, crops(folder, seed=4), crops(folder, epoch=1))]
    assert all(len(set(each)) > 20 for each in names)
    assert not set(names[0]) & set(names[1])
    assert not set(names[0]) & set(names[2])


def test_workers_change_nothing(folder):
    dataset = crops(folder, per_epoch=6)
    loaded = [crop for (crop,) in DataLoader(dataset, num_workers=2, collate_fn=list, multiprocessing_context="fork")]
    for index, crop in enumerate(loaded):
        assert_same(crop, dataset[index])


def test_places_with_all_sensors_only(folder):
    (folder / "S1RTC" / "c.tif").unlink()
    collection = open_collection(folder, paired=False)
    assert Crops(collection, sensors=SENSORS, size=16, per_epoch=4).places == ("a", "b")
    assert Crops(collection, sensors=["S2L2A"], size=16, per_epoch=4).places == ("a", "b", "c")


def cloud(folder, place, rows):
    codes = np.full((1, 64, 64), 4, np.uint8)
    codes[0, :rows] = 9
    write(folder / "SCL" / f"{place}.tif", codes, 10.0)


def test_cloudy_crops_are_drawn_again(folder):
    for place in "abc":
        cloud(folder, place, 48)
    for crop in crops(folder, valid=0.9, flips=False):
        assert np.isfinite(crop["sentinel-2-l2a"].values).mean() >= 0.9
        assert np.isfinite(crop["sentinel-1-rtc"].values).all()


def test_place_without_valid_crop_is_named(folder, caplog):
    cloud(folder, "b", 64)
    with pytest.raises(ValueError, match="^b: no crop of 16 x 16 pixels with 50% of its values"):
        list(crops(folder))
    dataset = crops(folder, on_error="skip")
    names = {crop["sentinel-2-l2a"].name for crop in dataset}
    assert names == {"a", "c"}
    assert list(dataset.failed) == ["b"]
    assert caplog.text.count("b passed over (1 of 3 places)") == 1


def test_file_damaged_in_the_middle_of_an_epoch_is_named_or_passed_over(folder, caplog):
    dataset, skipping = crops(folder, keep_mib=0), crops(folder, keep_mib=0, on_error="skip")
    before = [values(crop) for crop in dataset]
    path = folder / "S2L2A" / "b.tif"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnusablePlaceError, match="^b: .*S2L2A/b.tif: "):
        list(dataset)
    after = [values(crop) for crop in skipping]
    assert {crop[0] for crop in after} == {"a", "c"}
    # Others are as they were; in place of a failed one comes another crop, not one that was there.
    assert len({crop[1].tobytes() for crop in after}) == len(after)
    for old, new in zip(before, after, strict=True):
        if old[0] != "b":
            np.testing.assert_array_equal(old[1], new[1])
    assert caplog.text.count("b passed over") == 1
    # A worker that has not seen the failure before gives the same crop.
    replaced = [index for index, crop in enumerate(before) if crop[0] == "b"]
    for index, crop in ((index, after[index]) for index in replaced[-2:]):
        fresh = crops(folder, keep_mib=0, check=False, on_error="skip")[index]
        np.testing.assert_array_equal(values(fresh)[1], crop[1])


def test_all_files_damaged_is_fatal(folder):
    dataset = crops(folder, keep_mib=0, on_error="skip")
    for path in (folder / "S2L2A").iterdir():
        path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UnusablePlaceError, match="no place can be used"):
        list(dataset)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 65}, "a: 64 x 64 pixels of sentinel-2-l2a, a crop takes 65 x 65"),
        ({"size": 15}, "crops of 15 pixels are not whole for all sensors, expected a multiple of 2"),
        ({"sensors": ["S2L1C"]}, "has no images of sentinel-2-l1c, it has sentinel-"),
        ({"sensors": ["S3"]}, "unknown sensor 'S3'"),
        ({"valid": 2.0}, "valid is a share of the pixels, 0..1, got 2.0"),
    ],
)
def test_impossible_crops_are_named(folder, options, message):
    with pytest.raises(ValueError, match=message):
        crops(folder, **options)
