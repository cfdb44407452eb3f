import h5py
import numpy as np
import pytest
from affine import Affine
from rasterio.windows import Window

from geovit.datasets import open_scene


@pytest.fixture
def swath():
    values = np.random.default_rng(0).uniform(0, 1, (40, 30, 7)).astype(np.float32)
    values[5, 6] = -9999
    return values


@pytest.fixture
def glt():
    """A table of a swath that lies askew: (200, 190) pixels, 0 around the swath."""
    rows, columns = np.mgrid[:200, :190]
    sample, line = (columns + rows // 4) // 8 - 3, (rows - columns // 5) // 5 + 1
    inside = (sample >= 0) & (sample < 30) & (line >= 0) & (line < 40)
    return (np.where(inside, index + 1, 0).astype(np.int32) for index in (sample, line))


@pytest.fixture
def placed(swath, glt):
    """Path-independent truth: what the map shows, and the tables."""
    x, y = glt
    shown = x > 0
    expected = np.full((*x.shape, 7), np.nan, np.float32)
    expected[shown] = swath[y[shown] - 1, x[shown] - 1]
    expected[expected == -9999] = np.nan
    return x, y, expected.transpose(2, 0, 1)


@pytest.mark.parametrize("chunks", [None, (16, 16, 3)])
def test_the_swath_is_put_on_the_map(products, tmp_path, swath, placed, chunks):
    x, y, expected = placed
    scene = open_scene(products.write_emit(tmp_path / "EMIT_L2A.nc", swath, x, y, good=(1, 1, 0, 1, 1, 1, 1), chunks=chunks))
    assert scene.dropped == {3: "bad band list"}
    np.testing.assert_allclose(scene.wavelengths, np.delete(np.linspace(381, 2493, 7), 2), rtol=1e-6)
    np.testing.assert_allclose(scene.fwhm, 8.4, rtol=1e-6)
    assert scene.grid.transform.almost_equals(Affine(5.4e-4, 0, -110, 0, -5.4e-4, 40))
    assert (scene.grid.shape, scene.grid.crs.to_epsg(), scene.nodata) == ((200, 190), 4326, -9999)
    pixels = scene.read()
    np.testing.assert_array_equal(pixels, np.delete(expected, 2, axis=0))
    for window in (Window(0, 0, 1, 1), Window(100, 50, 90, 149), Window(0, 199, 190, 1), Window(60, 70, 5, 3)):
        rows, columns = window.toslices()
        np.testing.assert_array_equal(scene.read(window), pixels[:, rows, columns])


def test_what_is_wrong_is_said(products, tmp_path, swath, placed):
    x, y, _ = placed
    path = products.write_emit(tmp_path / "a.nc", swath, np.where(x == x.max(), 31, x), y)
    with pytest.raises(ValueError, match="points outside the swath of 40 x 30"):
        open_scene(path).read()
    path = products.write_emit(tmp_path / "b.nc", swath, x, y)
    with h5py.File(path, "a") as file:
        file["uncertainty"] = swath
    with pytest.raises(ValueError, match=r"several cubes: reflectance, uncertainty; name one, as .*b\.nc:reflectance"):
        open_scene(path)
    assert open_scene(f"{path}:uncertainty").num_bands == 7
    with pytest.raises(ValueError, match="no cube other; it holds reflectance, uncertainty"):
        open_scene(f"{path}:other")
    with h5py.File(path, "a") as file:
        del file.attrs["geotransform"]
    with pytest.raises(ValueError, match="expected six numbers that place a grid"):
        open_scene(f"{path}:reflectance")
