import numpy as np
import pytest
from rasterio.windows import Window

from geovit.datasets.collections import open_collection, split


@pytest.fixture
def spectra(write):
    """An imaging spectrometer's scene of 4 bands; one number is no data."""

    def make(unit="Nanometers", scale=1.0, **options):
        array = np.random.default_rng(0).integers(100, 4000, (4, 40, 50)).astype(np.int16)
        array[:, 0, 0] = -32768
        tags = {"wavelength": ", ".join(f"{w * scale:g}" for w in (450.5, 640, 2200, 860)), "wavelength_units": unit}
        return write("scene.tif", array, pitch=30.0, tags=tags, **options)

    return make


def test_scene_is_one_place_with_the_wavelengths_of_its_file(spectra):
    found = open_collection(spectra(), sensors="enmap")
    assert found.places == ("scene",)
    assert [band.wavelength for band in found.bands("enmap")] == [450.5, 640, 860, 2200]
    assert [band.name for band in found.bands("enmap")] == ["B001", "B002", "B004", "B003"]
    image = found.read("scene")["enmap"]
    assert np.isnan(image.values[:, 0, 0]).all()
    assert 0.01 <= np.nanmin(image.values) < np.nanmax(image.values) < 0.4
    assert image.gsd == 30


def test_blocks_of_a_scene_are_places_that_cover_it(spectra):
    path = spectra()
    whole = open_collection(path, sensors="enmap").read("scene")["enmap"].values
    found = open_collection(path, sensors="enmap", block=16, keep_mib=0)
    assert found.places == ("scene_0_0", "scene_0_1", "scene_0_2", "scene_1_0", "scene_1_1", "scene_1_2")
    rows = [np.concatenate([found.read(f"scene_{i}_{j}")["enmap"].values for j in range(3)], 2) for i in range(2)]
    np.testing.assert_array_equal(np.concatenate(rows, 1), whole)
    part = found.read("scene_1_2", window=Window(1, 2, 3, 4))["enmap"]
    np.testing.assert_array_equal(part.values, whole[:, 18:22, 33:36])
    assert part.grid.transform.c == 4e5 + 33 * 30
    with pytest.raises(ValueError, match="blocks of 41 pixels, expected 1..40"):
        open_collection(path, sensors="enmap", block=41)


def test_bands_of_a_spectrometer_are_chosen_by_name(spectra):
    found = open_collection(spectra(), sensors="enmap", keep_mib=0)
    whole = found.read("scene")["enmap"].values
    some = found.read("scene", bands={"enmap": ["B003", "B001"]})["enmap"]
    assert [band.wavelength for band in some.bands] == [2200, 450.5]
    np.testing.assert_array_equal(some.values, whole[[3, 0]])


def test_fill_of_emit_is_no_data_without_a_tag(write):
    array = np.random.default_rng(0).uniform(0.02, 0.6, (2, 16, 16)).astype(np.float32)
    array[:, 2, 3] = -9999
    path = write("emit.tif", array, pitch=60.0, tags={"wavelength": "450, 600", "wavelength_units": "nm"})
    values = open_collection(path, sensors="EMIT").read("emit")["emit"].values
    assert np.isnan(values[:, 2, 3]).all()
    np.testing.assert_array_equal(values[:, 3:], array[:, 3:])


def test_images_of_other_wavelengths_are_refused(write, tmp_path):
    for place, first in (("a", 450), ("b", 451), ("c", 460)):
        array = np.full((2, 8, 8), 1000, np.int16)
        write(f"enmap/{place}.tif", array, tags={"wavelength": f"{first}, 600", "wavelength_units": "nm"})
    with pytest.raises(ValueError, match="c.tif: band B001 is at 460 nm, in .*a.tif elsewhere"):
        open_collection(tmp_path)
    (tmp_path / "enmap" / "c.tif").unlink()
    assert len(open_collection(tmp_path)) == 2


def test_scene_needs_a_sensor(spectra):
    with pytest.raises(ValueError, match="tell the sensor of the scene, such as enmap"):
        open_collection(spectra())


def test_bands_without_wavelengths_are_refused(write):
    path = write("scene.tif", np.ones((4, 8, 8), np.int16))
    with pytest.raises(ValueError, match="bands have no wavelengths, which those of enmap must have"):
        open_collection(path, sensors="enmap")


def test_micrometres_are_converted_and_refused_where_called_nanometres(spectra):
    found = open_collection(spectra("Micrometers", 1e-3), sensors="enmap")
    assert [band.wavelength for band in found.bands("enmap")] == pytest.approx([450.5, 640, 860, 2200])
    with pytest.raises(ValueError, match="wavelength 0.4505 nm: it looks like micrometres, expected 200..20000 nm"):
        open_collection(spectra("Nanometers", 1e-3), sensors="enmap")


def test_enmap_scene(data_dir):
    found = open_collection(data_dir / "hyperspectral" / "enmap_potsdam" / "scene.tif", sensors="enmap", block=64)
    assert len(found.bands("enmap")) == 218
    assert found.radiometry(found.places[0], "enmap").scale == 1e-4
    values = found.read("scene_2_1")["enmap"].values
    assert 0 <= np.nanquantile(values, 0.01) < np.nanquantile(values, 0.99) < 0.6


def test_split_is_by_place_and_seeded(spectra):
    found = open_collection(spectra(), sensors="enmap", block=10)
    parts = split(found, {"train": 0.7, "test": 0.3}, seed=1)
    assert [len(part) for part in parts.values()] == [14, 6]
    assert not set(parts["train"].places) & set(parts["test"].places)
    assert split(found, {"train": 0.7, "test": 0.3}, seed=1)["test"].places == parts["test"].places
    assert split(found, {"train": 0.7, "test": 0.3}, seed=2)["test"].places != parts["test"].places
    named = split(found, {"train": found.places[:3], "test": found.places[3:5]})
    assert named["test"].places == found.places[3:5]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"a": 0.7, "b": 0.7}, "expected above 0, together 1"),
        ({"a": ["scene_0_0"], "b": ["scene_0_0"]}, "place scene_0_0 is in a and in b"),
        ({"a": ["nowhere"]}, "has no place 'nowhere', it has scene_0_0, "),
        ({"a": ["scene_0_0"], "b": 0.5}, "all shares, or all lists"),
        ({str(i): 1 / 21 for i in range(21)}, "20 places for 21 parts"),
    ],
)
def test_impossible_splits_are_named(spectra, parts, message):
    with pytest.raises(ValueError, match=message):
        split(open_collection(spectra(), sensors="enmap", block=10), parts)
