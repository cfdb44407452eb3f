import logging
import pickle

import numpy as np
import pytest
from rasterio.windows import Window

from geovit.datasets.collections import open_collection
from geovit.datasets.sensors import Radiometry


def test_terramesh_is_read_as_it_lies_there(data_dir):
    found = open_collection(data_dir / "satellite" / "terramesh")
    assert set(found.sensors) == {"sentinel-2-l2a", "sentinel-2-l1c", "sentinel-1-rtc"}
    assert len(found) == 4
    offsets = {place: [found.radiometry(place, name).offset for name in ("S2L1C", "S2L2A")] for place in found.places}
    # As the files are: one was harmonised at both levels, two at level 2A, one at none.
    assert offsets == {
        "282D_485L_3_3": [-0.1, 0.0],
        "38D_378R_2_3": [0.0, 0.0],
        "433D_629L_3_1": [-0.1, -0.1],
        "609U_541L_3_0": [-0.1, 0.0],
    }
    for place in found.places:
        images = found.read(place)
        # The air hardly changes this band, so that both levels agree; an offset too much or too little would be 0.1.
        levels = found.read(place, bands={"S2L1C": ["B11"], "S2L2A": ["B11"]})
        first, second = (np.median(levels[name].values) for name in ("sentinel-2-l1c", "sentinel-2-l2a"))
        assert abs(first - second) < 0.03
        assert images["sentinel-1-rtc"].gsd == 10
        assert set(np.unique(found.labels(place))) <= set(range(1, 10))


def test_values_are_physical_and_bands_known(pair, numbers):
    image = open_collection(pair).read("b", ["S2L2A"])["sentinel-2-l2a"]
    np.testing.assert_allclose(image.values, numbers(12, seed=1) * 1e-4 - 0.1, atol=1e-6)
    assert [band.name for band in image.bands][6:9] == ["B07", "B08", "B8A"]
    assert (image.gsd, image.name, image.sensor) == (10.0, "b", "sentinel-2-l2a")


@pytest.mark.parametrize("keep_mib", [0, 256])
def test_window_is_the_same_ground_for_all_sensors(pair, keep_mib):
    found = open_collection(pair, keep_mib=keep_mib)
    whole = found.read("a", ["S2L2A", "S1RTC"])
    part = found.read("a", ["S2L2A", "S1RTC"], Window(4, 8, 10, 6))
    np.testing.assert_array_equal(part["sentinel-2-l2a"].values, whole["sentinel-2-l2a"].values[:, 8:14, 4:14])
    np.testing.assert_array_equal(part["sentinel-1-rtc"].values, whole["sentinel-1-rtc"].values[:, 4:7, 2:7])
    grids = [image.grid.bounds for image in part.values()]
    np.testing.assert_allclose(grids[0], grids[1])
    assert found.step("a", ["S2L2A", "S1RTC"]) == 2
    with pytest.raises(ValueError, match="not of whole pixels within its 16 x 16 .20 m, beside 10 m of sentinel-2-l2a"):
        found.read("a", ["S2L2A", "S1RTC"], Window(5, 8, 10, 6))


def test_band_subset_has_the_order_asked_for(pair):
    found = open_collection(pair)
    whole = found.read("a")["sentinel-2-l2a"].values
    image = found.read("a", ["S2L2A"], bands={"S2L2A": ["B12", "blue"]})["sentinel-2-l2a"]
    assert [band.name for band in image.bands] == ["B12", "B02"]
    np.testing.assert_array_equal(image.values, whole[[11, 1]])
    with pytest.raises(ValueError, match="sentinel-2-l2a has no band 'B10', allowed are B01, "):
        found.read("a", bands={"S2L2A": ["B10"]})


def test_labels_are_found_and_heights_passed_over(pair):
    found = open_collection(pair)
    assert set(found.sensors) == {"sentinel-2-l2a", "sentinel-1-rtc"}
    assert (found.labels("b") == 2).all()
    assert found.labels("b", Window(0, 0, 3, 2)).shape == (2, 3)


def test_names_of_bands_in_the_file_rule(write, numbers, tmp_path):
    write("S2L2A/a.tif", numbers(3), names=("B8A", "red", "B2"))
    found = open_collection(tmp_path)
    assert [band.name for band in found.bands("S2L2A")] == ["B8A", "B04", "B02"]


def test_nodata_is_nan_also_where_only_the_sensor_tells_it(write, numbers, tmp_path):
    array = numbers(12)
    array[:, 3, 4] = 0
    write("S2L2A/a.tif", array)
    values = open_collection(tmp_path).read("a")["sentinel-2-l2a"].values
    assert np.isnan(values[:, 3, 4]).all()
    assert np.isnan(values).sum() == 12


def test_clouds_are_hidden_from_optical_sensors_only(pair, write):
    codes = np.full((1, 16, 16), 4, np.uint8)
    codes[0, 2, 3] = 9  # 4 pixels of 10 m
    write("SCL/a.tif", codes, pitch=20.0)
    images = open_collection(pair).read("a")
    hidden = np.isnan(images["sentinel-2-l2a"].values)
    assert hidden[:, 4:6, 6:8].all()
    assert hidden.sum() == 12 * 4
    assert np.isfinite(images["sentinel-1-rtc"].values).all()
    part = open_collection(pair, keep_mib=0).read("a", ["S2L2A"], Window(6, 4, 4, 4))["sentinel-2-l2a"].values
    assert np.isnan(part[:, :2, :2]).all()
    assert np.isfinite(part[:, 2:]).all()


def test_collection_can_be_sent_to_a_worker(pair):
    found = open_collection(pair)
    values = found.read("a")["sentinel-2-l2a"].values
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again.read("a")["sentinel-2-l2a"].values, values)


def test_correction_is_logged_once_and_kept(write, numbers, tmp_path, caplog):
    write("S2L2A/a.tif", numbers(12) - 1000)
    caplog.set_level(logging.INFO)
    found = open_collection(tmp_path)
    found.read("a")
    found.read("a", window=Window(0, 0, 4, 4))
    assert [record.getMessage() for record in caplog.records if "nothing subtracted" in record.getMessage()] == [
        f"{tmp_path}/S2L2A/a.tif (sentinel-2-l2a): nothing subtracted: the darkest pixels are at 11"
    ]


def test_told_radiometry_is_used(write, numbers, tmp_path):
    write("S2L2A/a.tif", numbers(12))
    told = Radiometry(2e-4, 0.0, "reflectance", "told")
    found = open_collection(tmp_path, radiometry={"S2L2A": told})
    np.testing.assert_allclose(found.read("a")["sentinel-2-l2a"].values, numbers(12) * 2e-4, rtol=1e-6)


@pytest.mark.parametrize(
    ("shift", "allowed"),
    [(1e-3, True), (5.0, False)],
)
def test_pairs_of_other_ground_are_refused(pair, write, shift, allowed):
    write("S1RTC/b.tif", np.full((2, 16, 16), -9, np.float32), pitch=20.0, shift=shift)
    if allowed:
        assert len(open_collection(pair)) == 2
        return
    with pytest.raises(ValueError, match="^b: .*S1RTC/b.tif and .*S2L2A/b.tif are not of the same ground"):
        open_collection(pair)
    assert open_collection(pair, on_error="skip").places == ("a",)


def test_places_without_partner_are_refused_unless_allowed(pair):
    (pair / "S1RTC" / "b.tif").unlink()
    with pytest.raises(ValueError, match="1 of 2 places are not seen by all sensors: b .no image of sentinel-1-rtc"):
        open_collection(pair)
    found = open_collection(pair, paired=False)
    assert found.places == ("a", "b")
    assert found.with_sensors(["S1RTC", "S2L2A"]) == ("a",)


def test_wrong_number_of_bands_tells_the_product_that_has_it(write, numbers, tmp_path):
    write("S2L2A/a.tif", numbers(13))
    with pytest.raises(
        ValueError, match="13 bands without names, expected the 12 of sentinel-2-l2a .*; 13 bands have sentinel-2-l1c"
    ):
        open_collection(tmp_path)
    write("S2L2A/a.tif", numbers(2))
    found = open_collection(tmp_path, bands={"S2L2A": ["B04", "B03"]})
    assert [band.name for band in found.bands("S2L2A")] == ["B04", "B03"]


def test_unknown_sensors_are_named(tmp_path, write, numbers):
    write("S2L2B/a.tif", numbers(12))
    with pytest.raises(ValueError, match="unknown sensor 'S2L2B': did you mean sentinel-2-l2a"):
        open_collection(tmp_path)
    found = open_collection(tmp_path, sensors={"S2L2B": "S2L2A"})
    assert found.sensors == ("sentinel-2-l2a",)


def test_folder_of_one_sensor_needs_no_folder_for_it(tmp_path, write, numbers):
    write("a.tif", numbers(12))
    with pytest.raises(FileNotFoundError, match="tell the sensor of its images"):
        open_collection(tmp_path)
    assert open_collection(tmp_path, sensors="S2L2A").places == ("a",)


def test_empty_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no images of known sensors, expected a folder for each"):
        open_collection(tmp_path)
    (tmp_path / "S2L2A").mkdir()
    with pytest.raises(FileNotFoundError, match="S2L2A: no images, expected .tif"):
        open_collection(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder for sentinel-1-rtc, its folders are S2L2A"):
        open_collection(tmp_path, sensors="S1RTC")
    with pytest.raises(FileNotFoundError, match="nowhere.tif: no such file"):
        open_collection(tmp_path / "nowhere.tif", sensors="enmap")


def test_numbers_out_of_range_are_refused_or_their_place_is_left_out(pair, write, numbers, caplog):
    write("S2L2A/b.tif", numbers(12) * 9)
    with pytest.raises(ValueError, match="b.tif: values .* are not what sentinel-2-l2a measures"):
        open_collection(pair)
    assert open_collection(pair, on_error="skip").places == ("a",)
    assert "1 of 2 places left out" in caplog.text
    write("S2L2A/a.tif", numbers(12) * 9)
    with pytest.raises(ValueError, match="no place can be used"):
        open_collection(pair, on_error="skip")


def test_bands_are_found_by_the_wavelengths_of_the_file(write, numbers, tmp_path):
    write("S2L2A/a.tif", numbers(3), tags={"wavelength": "665, 842, 490", "wavelength_units": "nm"})
    assert [band.name for band in open_collection(tmp_path).bands("S2L2A")] == ["B04", "B08", "B02"]
    write("S2L2A/a.tif", numbers(2), tags={"wavelength": "0.665, 0.842", "wavelength_units": "nm"})
    with pytest.raises(ValueError, match="a.tif: wavelength 0.665 nm: it looks like micrometres"):
        open_collection(tmp_path)
    write("S2L2A/a.tif", numbers(2), tags={"wavelength": "665, 1200", "wavelength_units": "nm"})
    with pytest.raises(ValueError, match="a.tif: sentinel-2-l2a has no band at 1200 nm"):
        open_collection(tmp_path)


def test_sample_is_found_at_the_edge_of_a_swath(write, tmp_path):
    array = np.zeros((2, 600, 600), np.uint16)
    array[:, 80:150, 80:150] = 1010 + np.arange(70)  # between the windows that are looked at first
    write("S2L2A/a.tif", array, names=("B04", "B03"))
    assert open_collection(tmp_path).radiometry("a", "S2L2A").offset == -0.1


def test_landsat_stack_of_another_scale_and_with_a_mask_band(data_dir):
    path = data_dir / "satellite" / "landsat7_opengeo" / "LE70220491999322EDC01_stack.gtif"
    with pytest.raises(ValueError, match="8 bands without names, expected the 6 of landsat-7-l2"):
        open_collection(path, sensors="L7L2")
    found = open_collection(path, sensors="L7L2", bands={"L7L2": ["B1", "B2", "B3", "B4", "B5", "B7", None, None]})
    (place,) = found.places
    assert found.radiometry(place, "L7L2").reason == "reflectance times 10000"
    assert np.nanmedian(found.read(place)["landsat-7-l2"].values[3]) == pytest.approx(0.3441, abs=1e-4)
