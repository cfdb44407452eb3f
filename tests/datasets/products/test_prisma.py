import multiprocessing
import pickle

import h5py
import numpy as np
import pytest
from affine import Affine
from rasterio.windows import Window

from geovit.datasets import open_collection, open_scene
from geovit.datasets.collections.rasters import open_layer
from geovit.datasets.sensors import sensor


@pytest.fixture
def cubes():
    rng = np.random.default_rng(0)
    vnir, swir = (rng.integers(1, 40000, (30, count, 24)).astype(np.uint16) for count in (5, 6))
    vnir[:4], swir[:4] = 0, 0  # around the swath
    vnir[10, 2, 3] = 0  # a number of a measured pixel
    return vnir, swir


@pytest.fixture
def path(products, cubes, tmp_path):
    return products.write_prisma(tmp_path / "PRS_L2D_STD_1.he5", *cubes)


def test_both_detectors_in_order_of_wavelength(path, cubes):
    scene = open_scene(path)
    told = np.concatenate([np.linspace(977, 407, 5), np.linspace(2497, 943, 5)])
    order = np.argsort(told)
    assert scene.bands == tuple(order + 1)
    np.testing.assert_allclose(scene.wavelengths, told[order], rtol=1e-6)
    np.testing.assert_allclose(scene.fwhm, 11.5)
    assert scene.dropped == {11: "bad band list"}  # has no wavelength
    both = np.concatenate([cube.transpose(1, 0, 2) for cube in cubes])
    pixels = scene.read()
    assert np.isnan(pixels[:, :4]).all()
    np.testing.assert_array_equal(pixels[:, 4:], both[order][:, 4:])  # numbers of 0 in a measured pixel stay
    np.testing.assert_array_equal(scene.read(Window(3, 2, 9, 11)), pixels[:, 2:13, 3:12])
    assert scene.numbers.scaling(scene.path) == pytest.approx((1 / 65535, 0))


@pytest.mark.parametrize(("centres", "left", "top"), [(True, 599985, 4500015), (False, 600000, 4500000)])
def test_corners_are_centres_of_pixels_or_their_edges_as_the_size_tells(products, cubes, tmp_path, centres, left, top):
    grid = open_scene(products.write_prisma(tmp_path / "a.he5", *cubes, centres=centres)).grid
    assert grid.transform == Affine(30, 0, left, 0, -30, top)
    assert (grid.shape, grid.crs.to_epsg()) == ((30, 24), 32632)


def test_a_scale_of_its_own_is_brought_to_that_of_the_other(products, cubes, tmp_path):
    scene = open_scene(products.write_prisma(tmp_path / "a.he5", *cubes, swir_scale=(0.1, 2.1)))
    scale, offset = scene.numbers.scaling("")
    expected = 0.1 + cubes[1][10, 0, 5] / 65535 * 2
    assert scene.read()[scene.bands.index(6), 10, 5] * scale + offset == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("level", ["L1", "L2B", "L2C"])
def test_products_of_the_sensor_geometry_say_that_they_have_no_map(products, cubes, tmp_path, level, caplog):
    scene = open_scene(products.write_prisma(tmp_path / "a.he5", *cubes, level=level))
    assert not scene.grid.georeferenced
    assert scene.num_bands == 10
    assert "no map coordinates" in caplog.text


def test_corners_that_fit_no_grid_are_an_error(path):
    with h5py.File(path, "a") as file:
        file.attrs["Product_LRcorner_easting"] = 700000.0
    with pytest.raises(ValueError, match="are not those of 30 x 24 pixels of 30 m"):
        open_scene(path)


def test_it_is_an_image_of_its_sensor(path, cubes):
    layer = open_layer(path, sensor("prisma"))
    assert (layer.bands[0].wavelength, layer.gsd, layer.whole, layer.marked) == (407, 30, True, True)
    values = layer.values(layer.decide(), [0], Window(2, 9, 1, 1))
    assert values.item() == pytest.approx(cubes[0][9, 4, 2] / 65535)
    assert open_collection(path, sensors="prisma", block=12).sensors == ("prisma",)


def _sum(scene):
    return float(np.nansum(scene.read(Window(0, 8, 24, 8))))


def test_forked_and_spawned_workers_read_what_the_parent_has_open(path):
    scene = open_scene(path)
    expected = _sum(scene)  # the file is open here now
    assert _sum(pickle.loads(pickle.dumps(scene))) == expected
    for method in ("fork", "forkserver"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map(_sum, [scene] * 8) == [expected] * 8


def test_files_elsewhere_are_not_read(products, cubes, tmp_path):
    path = products.write_prisma(tmp_path / "a.he5", *cubes)
    other = products.write_prisma(tmp_path / "b.he5", *cubes)
    name = "HDFEOS/SWATHS/PRS_L2D_HCO/Data Fields/VNIR_Cube"
    with h5py.File(path, "a") as file:
        del file[name]
        file[name] = h5py.ExternalLink(str(other), name)
    assert open_scene(path).dropped == {6: "bad band list"}  # SWIR alone
    with h5py.File(path, "a") as file:
        del file[name]
        file.create_dataset(name, (30, 5, 24), "u2", external=[(str(tmp_path / "c.raw"), 0, h5py.h5f.UNLIMITED)])
    with pytest.raises(ValueError, match="lie in other files"):
        open_scene(path)
