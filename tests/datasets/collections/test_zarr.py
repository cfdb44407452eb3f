import numpy as np
import pytest
import zarr
from rasterio.windows import Window

from geovit.datasets.collections import open_collection


@pytest.fixture(params=[2, 3])
def group(request, tmp_path):
    """An empty group, in both versions of the format, and a way to add arrays with named axes."""
    root = zarr.open_group(tmp_path / "stack.zarr", mode="w", zarr_format=request.param)

    def add(name, array, axes=None, **attributes):
        parent, _, leaf = name.rpartition("/")
        where = root.require_group(parent) if parent else root
        names = {"dimension_names": axes} if axes and request.param == 3 else {}
        dtype = str if array.dtype.kind == "O" else array.dtype
        made = where.create_array(leaf, shape=array.shape, dtype=dtype, **names)
        made[...] = array
        if axes and request.param == 2:
            attributes["_ARRAY_DIMENSIONS"] = list(axes)
        made.attrs.update(attributes)

    add.path = tmp_path / "stack.zarr"
    return add


def stack(numbers, count, bands=12, side=16):
    return np.stack([numbers(bands, side, seed) for seed in range(count)])


def test_plain_arrays_of_several_sensors(group, numbers):
    array = stack(numbers, 3)
    group("S2L2A", array)
    group("S1RTC", np.full((3, 2, 16, 16), -12, np.float32))
    group("time", np.arange(3))
    found = open_collection(group.path, keep_mib=0)
    assert found.places == ("000000", "000001", "000002")
    images = found.read("000001", ["S2L2A", "S1RTC"], Window(2, 3, 5, 4))
    np.testing.assert_allclose(images["sentinel-2-l2a"].values, array[1, :, 3:7, 2:7] * 1e-4 - 0.1, atol=1e-6)
    assert images["sentinel-2-l2a"].gsd == 10
    assert images["sentinel-1-rtc"].values.shape == (2, 4, 5)


def test_axes_and_coordinates_as_xarray_writes_them(group, numbers):
    array = stack(numbers, 2, 3)
    group("cube/reflectance", array.transpose(0, 2, 3, 1), ("time", "y", "x", "band"), scale_factor=1e-4, add_offset=-0.1)
    group("cube/wavelength", np.array([0.865, 0.665, 0.492]), ("band",), units="um")
    group("cube/x", 4e5 + 5 + 10.0 * np.arange(16), ("x",))
    group("cube/y", 5.8e6 - 5 - 10.0 * np.arange(16), ("y",))
    group("cube/spatial_ref", np.zeros(1), ("one",), crs_wkt="EPSG:32633")
    found = open_collection(group.path, sensors={"cube/reflectance": "S2L2A"})
    image = found.read("000001", window=Window(1, 2, 3, 4))["sentinel-2-l2a"]
    assert [band.name for band in image.bands] == ["B8A", "B04", "B02"]
    np.testing.assert_allclose(image.values, array[1, :, 2:6, 1:4] * 1e-4 - 0.1, atol=1e-6)
    assert image.grid.crs.to_epsg() == 32633
    assert image.grid.bounds == (400010, 5799940, 400040, 5799980)


def test_wavelengths_of_a_spectrometer_come_from_the_store(group):
    array = np.random.default_rng(0).integers(100, 4000, (4, 5, 16, 16)).astype(np.int16)
    array[0, :, 0, 0] = -32768
    group("enmap", array, wavelength=[450.0, 550, 650, 860, 2200], wavelength_units="nm")
    found = open_collection(group.path)
    assert [band.wavelength for band in found.bands("enmap")] == [450, 550, 650, 860, 2200]
    assert np.isnan(found.read("000000")["enmap"].values[:, 0, 0]).all()


def test_names_of_bands_and_samples_as_coordinates(group, numbers):
    group("S2L2A", stack(numbers, 2, 2), ("sample", "band", "y", "x"))
    group("band", np.array(["B8A", "B04"], dtype=object), ("band",))
    group("sample", np.array(["north", "south"], dtype=object), ("sample",))
    found = open_collection(group.path)
    assert [band.name for band in found.bands("S2L2A")] == ["B8A", "B04"]
    assert found.places == ("north", "south")


def test_names_of_bands_as_attribute(group, numbers):
    group("S2L2A", stack(numbers, 2, 2), band=["B08", "B04"])
    assert [band.name for band in open_collection(group.path).bands("S2L2A")] == ["B08", "B04"]


def test_labels_and_clouds_beside_the_images(group, numbers):
    group("S2L2A", stack(numbers, 2))
    group("LULC", np.full((2, 16, 16), 5, np.uint8))
    codes = np.full((2, 16, 16), 4, np.uint8)
    codes[1, :4] = 9
    group("SCL", codes)
    found = open_collection(group.path, keep_mib=0)
    assert (found.labels("000001", Window(0, 0, 3, 2)) == np.full((2, 3), 5)).all()
    values = found.read("000001", window=Window(0, 2, 16, 6))["sentinel-2-l2a"].values
    assert np.isnan(values[:, :2]).all()
    assert np.isfinite(values[:, 2:]).all()
    assert np.isfinite(found.read("000000")["sentinel-2-l2a"].values).all()


def test_radiometry_is_decided_once_for_an_array(group, numbers):
    array = stack(numbers, 20)
    array[0] += 1500  # a bright image, which alone would tell nothing
    group("S2L2A", array)
    found = open_collection(group.path)
    assert {found.radiometry(place, "S2L2A").offset for place in found.places} == {-0.1}
    assert len({found.radiometry(place, "S2L2A").reason for place in found.places}) == 1


def test_array_of_both_baselines_is_refused(group, numbers):
    array = stack(numbers, 4)
    array[2] -= 1000
    group("S2L2A", array)
    with pytest.raises(ValueError, match="S2L2A: some images are without"):
        open_collection(group.path)


def test_mistakes_in_stores_are_named(group, numbers):
    group("cube", stack(numbers, 2))
    with pytest.raises(ValueError, match="tell the sensor of its arrays, which are cube"):
        open_collection(group.path)
    with pytest.raises(ValueError, match="no array 'cubes' of images, it has cube"):
        open_collection(group.path, sensors={"cubes": "S2L2A"})
    with pytest.raises(ValueError, match="cube: 12 bands without names, expected the 13 of sentinel-2-l1c"):
        open_collection(group.path, sensors="S2L1C")
    with pytest.raises(ValueError, match="cube: its bands have no wavelengths, which those of enmap must have"):
        open_collection(group.path, sensors="enmap")
    group("odd", stack(numbers, 2), ("band", "sample", "y", "x"))
    with pytest.raises(ValueError, match="odd: axes are band, sample, y, x, expected samples or times before band, y and x"):
        open_collection(group.path, sensors={"odd": "S2L2A"})
    group("um", stack(numbers, 2, 3), wavelength=[0.45, 0.55, 0.65], wavelength_units="nm")
    with pytest.raises(ValueError, match="um: wavelength 0.45 nm: it looks like micrometres"):
        open_collection(group.path, sensors={"um": "enmap"})


def test_zip_store(tmp_path, numbers):
    array = stack(numbers, 2)
    store = zarr.storage.ZipStore(tmp_path / "stack.zarr.zip", mode="w")
    zarr.create_array(store, name="S2L2A", data=array)
    store.close()
    found = open_collection(tmp_path / "stack.zarr.zip")
    np.testing.assert_allclose(found.read("000001")["sentinel-2-l2a"].values, array[1] * 1e-4 - 0.1, atol=1e-6)
