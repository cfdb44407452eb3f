import os

import h5py
import numpy as np
import pytest
from affine import Affine
from rasterio.windows import Window

from geovit.datasets import open_scene

SIZES = {"wavelength": 5, "y": 12, "x": 9, "lat": 12, "lon": 9, "band": 5}


def cube(dims, dtype=np.int16):
    values = np.random.default_rng(0).integers(1, 9000, [SIZES[name] for name in dims]).astype(dtype)
    values.flat[0] = -9999
    return values


@pytest.mark.parametrize("dims", [("wavelength", "y", "x"), ("y", "x", "wavelength"), ("y", "wavelength", "x")])
@pytest.mark.parametrize("unit", ["um", "nm", "nanometers"])
def test_a_cube_in_any_order_of_dimensions(products, tmp_path, dims, unit):
    values = cube(dims)
    scene = open_scene(products.write_netcdf(tmp_path / "a.nc", values, dims=dims, unit=unit, attributes={"scale_factor": 1e-4}))
    np.testing.assert_allclose(scene.wavelengths, np.linspace(400, 2400, 5))
    assert scene.grid.transform == Affine(30, 0, 400000, 0, -30, 5800000)  # half a pixel from the first centre
    assert (scene.grid.crs.to_epsg(), scene.nodata, scene.numbers.scalings) == (32633, -9999, ((1e-4, 0.0),))
    expected = values.transpose([dims.index(name) for name in ("wavelength", "y", "x")]).astype(np.float32)  # numbers as stored
    expected[expected == -9999] = np.nan
    np.testing.assert_array_equal(scene.read(), expected)
    np.testing.assert_array_equal(scene.read(Window(2, 3, 4, 5)), expected[:, 3:8, 2:6])


def test_latitude_and_longitude_without_a_datum_are_wgs_84_with_a_warning(products, tmp_path, caplog):
    dims = ("wavelength", "lat", "lon")
    grid = open_scene(products.write_netcdf(tmp_path / "a.nc", cube(dims), dims=dims, mapping={"long_name": "none"})).grid
    assert grid.transform.almost_equals(Affine(0.001, 0, 11.9995, 0, -0.001, 50.0005))
    assert grid.crs.to_epsg() == 4326
    assert "taken as WGS 84" in caplog.text


def test_widths_and_bad_bands_along_the_bands(products, tmp_path):
    path = products.write_netcdf(tmp_path / "a.nc", cube(("y", "x", "wavelength")), dims=("y", "x", "wavelength"))
    with h5py.File(path, "a") as file:
        for name, values in (("fwhm", [0.01, 0.02, 0.03, 0.04, 0.05]), ("good_wavelengths", [1, 1, 0, 1, 1])):
            file[name] = np.array(values)
            file[name].dims[0].attach_scale(file["wavelength"])
    scene = open_scene(path)
    assert scene.dropped == {3: "bad band list"}
    np.testing.assert_allclose(scene.fwhm, [10, 20, 40, 50])


def test_wavelengths_of_another_file_are_not_read(products, tmp_path):
    dims = ("band", "y", "x")
    path = products.write_netcdf(tmp_path / "a.nc", cube(dims), dims=dims, unit="1")
    products.write_netcdf(tmp_path / "other.nc", cube(("wavelength", "y", "x")), dims=("wavelength", "y", "x"))
    with h5py.File(path, "a") as file:
        del file["band"].attrs["standard_name"]
        file["wavelength"] = h5py.ExternalLink("other.nc", "wavelength")
    with h5py.File(path, "r") as file:
        assert file["wavelength"].shape == (5,)  # the library would go there
    assert open_scene(path).wavelengths is None


def test_bands_that_are_no_wavelengths_stay_without(products, tmp_path):
    dims = ("band", "y", "x")
    path = products.write_netcdf(tmp_path / "a.nc", cube(dims), dims=dims, unit="1")
    with h5py.File(path, "a") as file:
        del file["band"].attrs["standard_name"]
    scene = open_scene(path)
    assert scene.wavelengths is None
    assert scene.bands == (1, 2, 3, 4, 5)


def test_coordinates_of_no_regular_grid_leave_it_without_map(products, tmp_path, caplog):
    path = products.write_netcdf(tmp_path / "a.nc", cube(("wavelength", "y", "x")))
    with h5py.File(path, "a") as file:
        file["x"][4] += 20
    assert not open_scene(path).grid.georeferenced
    assert "no regular grid" in caplog.text


def test_one_of_several_is_named(products, tmp_path):
    path = products.write_netcdf(tmp_path / "a.nc", cube(("wavelength", "y", "x")))
    with h5py.File(path, "a") as file:
        other = file.create_dataset("group/other", data=cube(("wavelength", "y", "x"), np.float32))
        for axis, name in enumerate(("wavelength", "y", "x")):
            other.dims[axis].attach_scale(file[name])
    with pytest.raises(ValueError, match=r"several cubes, .*: name one, as .*a\.nc:"):
        open_scene(path)
    assert open_scene(f"{path}:group/other").numbers.dtype == np.float32
    with pytest.raises(ValueError, match=r"no variable nothing of real numbers; it holds .*reflectance \(5, 12, 9\)"):
        open_scene(f"{path}:nothing")


@pytest.mark.parametrize("keep", [0.02, 0.3, 0.9])
def test_truncated(products, tmp_path, keep):
    path = products.write_netcdf(tmp_path / "a.nc", cube(("wavelength", "y", "x")))
    os.truncate(path, int(path.stat().st_size * keep))
    with pytest.raises(ValueError, match=r"a\.nc: "):
        open_scene(path)
