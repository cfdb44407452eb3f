"""Scenes in Zarr stores, as xarray, rioxarray and GDAL write them."""

import functools
import pickle
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import xarray
import zarr
from rasterio.crs import CRS
from rasterio.windows import Window

from geovit.datasets import open_scene

# Of libraries beneath xarray, at their own use of each other.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*[Cc]onsolidated metadata"),
]


@pytest.fixture(params=[2, 3])
def version(request):
    return request.param


@pytest.fixture
def array(cube, grid):
    """Five bands, wavelengths in um and not in order, one of them bad, one pixel without data."""
    import rioxarray  # noqa: F401  # the accessor

    values = cube.copy()
    values[:, 3, 4] = np.nan
    xs, ys = grid.to_map(np.arange(30) + 0.5, np.full(30, 0.5))[0], grid.to_map(np.full(24, 0.5), np.arange(24) + 0.5)[1]
    found = xarray.DataArray(values, dims=("band", "y", "x"), coords={"x": xs, "y": ys}, name="reflectance")
    found = found.assign_coords(
        wavelength=("band", [0.5, 0.4, 0.7, 0.6, 0.8], {"units": "um"}), fwhm=("band", [0.01] * 5, {"units": "um"}),
        bbl=("band", [1, 1, 1, 0, 1]),
    )  # fmt: skip
    return found.rio.write_crs(grid.crs)


def is_the_array(scene, array, grid):
    whole = scene.read()
    np.testing.assert_array_equal(whole, array.values[[1, 0, 2, 4]])
    np.testing.assert_allclose(scene.wavelengths, [400, 500, 700, 800])
    np.testing.assert_allclose(scene.fwhm, [10] * 4)
    assert scene.dropped == {4: "bad band list"}
    assert scene.grid.matches(grid)
    window = Window(7, 3, 11, 5)
    np.testing.assert_array_equal(scene.read(window), whole[(slice(None), *window.toslices())])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(scene)).read(), whole)


@pytest.mark.parametrize("order", [("band", "y", "x"), ("y", "x", "band")])
@pytest.mark.parametrize("placed", ["coordinates", "GeoTransform"])
def test_what_xarray_writes(array, grid, tmp_path, version, order, placed):
    found = array.transpose(*order)
    if placed == "GeoTransform":
        found = found.rio.write_transform(grid.transform).drop_vars(["x", "y"])
    found.to_zarr(tmp_path / "s.zarr", zarr_format=version)
    is_the_array(open_scene(tmp_path / "s.zarr"), array, grid)


@pytest.fixture
def served(tmp_path):
    """Serve a folder over HTTP, and return its address."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # sockets that aiohttp closes when it is idle
def test_a_store_at_an_address(array, grid, tmp_path, version, served):
    array.to_zarr(tmp_path / "s.zarr", zarr_format=version)
    is_the_array(open_scene(f"{served}/s.zarr"), array, grid)
    assert open_scene(f"{served}/s.zarr:reflectance").num_bands == 4
    with pytest.raises(FileNotFoundError, match=r"http://.*/none\.zarr: no Zarr store there"):
        open_scene(f"{served}/none.zarr")
    with pytest.raises(ValueError, match=r"http://.*no Zarr store that can be read \(Cannot connect"):
        open_scene("http://127.0.0.1:9/s.zarr")


def test_packed_numbers_are_raw_and_their_scale_is_told(array, grid, tmp_path, version):
    packed = {"dtype": "int16", "scale_factor": 0.01, "add_offset": -1.0, "_FillValue": -9999}
    array.to_dataset().to_zarr(tmp_path / "s.zarr", zarr_format=version, encoding={"reflectance": packed})
    scene = open_scene(tmp_path / "s.zarr")
    expected = np.round((array.values + 1) / 0.01)[[1, 0, 2, 4]]
    np.testing.assert_allclose(scene.read(), expected, atol=1)
    assert np.isnan(scene.read()[:, 3, 4]).all()
    assert scene.numbers.scaling("s") == (0.01, -1.0)
    assert scene.nodata == -9999


def test_geozarr_attributes_and_an_array_of_several(array, grid, tmp_path, version, cube):
    root = zarr.open_group(tmp_path / "s.zarr", mode="w", zarr_format=version)
    for name in ("cube", "other"):
        made = root.create_array(name, shape=cube.shape, dtype="float32", chunks=(2, 8, 8))
        made[...] = np.nan_to_num(array.values, nan=-1) if name == "cube" else np.ones(cube.shape)
        made.attrs.update({
            "nodata": -1, "wavelength": [500, 400, 700, 600, 800], "wavelength_units": "nm", "fwhm": [10] * 5,
            "bbl": [1, 1, 1, 0, 1], "proj:code": "EPSG:32633", "spatial:transform": list(grid.transform)[:6],
            "_ARRAY_DIMENSIONS": ["band", "y", "x"],
        })  # fmt: skip
    is_the_array(open_scene(f"{tmp_path}/s.zarr:cube"), array, grid)
    assert open_scene(f"{tmp_path}/s.zarr:cube").grid.crs == CRS.from_epsg(32633)
    with pytest.raises(ValueError, match=r"2 arrays of bands, rows and columns \(cube, other\): name one, as .*s\.zarr:ARRAY"):
        open_scene(tmp_path / "s.zarr")
    with pytest.raises(ValueError, match=r"no array 'x' .*; it has cube, other"):
        open_scene(f"{tmp_path}/s.zarr:x")


def test_an_axis_of_one_step_is_passed_over_and_one_of_several_refused(array, grid, tmp_path, version):
    array.expand_dims("time").to_zarr(tmp_path / "one.zarr", zarr_format=version)
    is_the_array(open_scene(tmp_path / "one.zarr"), array, grid)
    xarray.concat([array, array], "time").to_zarr(tmp_path / "two.zarr", zarr_format=version)
    with pytest.raises(ValueError, match="time: 2, .*nothing else of more than one step"):
        open_scene(tmp_path / "two.zarr")


def test_damaged_stores_are_refused_in_one_line(array, tmp_path, version):
    array.to_zarr(tmp_path / "s.zarr", zarr_format=version)
    files = (path for path in (tmp_path / "s.zarr/reflectance").rglob("*") if path.is_file())
    chunk = next(path for path in files if not path.name.startswith((".z", "z")))
    chunk.write_bytes(b"\0" * 40)
    with pytest.raises(ValueError, match=r"s\.zarr") as caught:
        open_scene(tmp_path / "s.zarr")
    assert "\n" not in str(caught.value)
