from dataclasses import replace

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.rpc import RPC

from geovit.datasets import Grid
from geovit.datasets.images import (
    GeoDetails,
    Image,
    invalid_pixels,
    open_image,
    to_pixels,
    to_unit,
    value_range,
    write_image,
)
from geovit.datasets.images.geotiff import resized_details

TRANSFORM = Affine(10.0, 0.0, 4e5, 0.0, -10.0, 5.8e6)
unplaced = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # rasterio.open of the test itself


def write(path, pixels, *, mask=None, describe=None, **profile):
    """A GeoTIFF of (H, W, C)."""
    where = {"crs": CRS.from_epsg(32633), "transform": TRANSFORM}
    shape = {"count": pixels.shape[2], "height": pixels.shape[0], "width": pixels.shape[1], "dtype": pixels.dtype}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", driver="GTiff", **(where | shape | profile)) as dst,
    ):
        dst.write(np.moveaxis(pixels, -1, 0))
        if mask is not None:
            dst.write_mask(mask)
        if describe is not None:
            describe(dst)
    return open_image(path)


def restored(image, factor=1):
    """What stands for a model: pixels as floats and back, each several times."""

    def larger(array):
        return None if array is None else array.repeat(factor, 0).repeat(factor, 1)

    unit, invalid = larger(to_unit(image)), larger(invalid_pixels(image))
    pixels = to_pixels(unit, image.pixels.dtype, value_range(image), nodata=image.nodata, invalid=invalid)
    grid, geo = image.grid.resized(*pixels.shape[:2]), resized_details(image.geo, factor, factor)
    return replace(image, pixels=pixels, alpha=larger(image.alpha), mask=larger(image.mask), grid=grid, geo=geo)


def again(tmp_path, image, name="result.tif"):
    write_image(tmp_path / name, image, overwrite=True)
    return open_image(tmp_path / name)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 13])
def test_bands_of_each_type_come_back_on_a_finer_grid(tmp_path, dtype, bands):
    pixels = np.random.default_rng(0).normal(100, 20, (30, 300, bands)).astype(dtype)
    image = write(tmp_path / "a.tif", pixels, photometric="MINISBLACK")  # else GDAL takes the fourth of four for alpha
    assert (image.format, image.pixels.dtype, image.grid) == ("GTiff", dtype, Grid(30, 300, CRS.from_epsg(32633), TRANSFORM))
    np.testing.assert_array_equal(image.pixels, pixels)
    same = again(tmp_path, image)
    np.testing.assert_array_equal(same.pixels, pixels)
    assert (same.grid, same.geo) == (image.grid, image.geo)
    larger = again(tmp_path, restored(image, 2))
    assert larger.grid == Grid(60, 600, image.grid.crs, Affine(5.0, 0.0, 4e5, 0.0, -5.0, 5.8e6))
    np.testing.assert_allclose(larger.pixels, pixels.repeat(2, 0).repeat(2, 1), rtol=1e-6)
    with rasterio.open(tmp_path / "result.tif") as src:
        assert src.profile["tiled"]
        assert src.compression.name == "deflate"


def test_what_the_file_says_about_bands_is_kept(tmp_path):
    def describe(dst):
        dst.set_band_description(1, "near infrared")
        dst.set_band_unit(2, "m")
        dst.scales, dst.offsets = (0.1, 1.0), (0.0, 5.0)
        dst.update_tags(SENSOR="x", AREA_OR_POINT="Point")
        dst.update_tags(2, wavelength="842", STATISTICS_MEAN="7")

    image = write(tmp_path / "a.tif", np.ones((4, 5, 2), np.uint16), describe=describe)
    result = again(tmp_path, restored(image, 2))
    geo = result.geo
    assert (geo.descriptions, geo.units) == (("near infrared", None), (None, "m"))
    assert (geo.scales, geo.offsets) == ((0.1, 1.0), (0.0, 5.0))
    assert geo.tags == {"SENSOR": "x", "AREA_OR_POINT": "Point"}
    assert geo.band_tags == ({}, {"wavelength": "842"})  # statistics are those of other pixels
    assert result.grid.transform == Affine(5.0, 0.0, 4e5, 0.0, -5.0, 5.8e6)


@pytest.mark.parametrize(
    ("dtype", "nodata"), [("uint8", 0), ("int16", -9999), ("uint16", 65535), ("float32", np.nan), ("float32", -(2.0**100))]
)
def test_nodata_is_kept_and_never_enters(tmp_path, dtype, nodata):
    pixels = np.random.default_rng(0).uniform(20, 200, (40, 50, 2)).astype(dtype)
    holes = np.zeros((40, 50, 2), bool)
    holes[:10, :, 0] = holes[20, 30] = True
    pixels[holes] = nodata
    image = write(tmp_path / "a.tif", pixels, nodata=nodata)
    unit = to_unit(image)
    low, high = (0, image.peak) if dtype.startswith("u") else (pixels[~holes].min(), pixels[~holes].max())
    assert (20 - low) / (high - low) - 1e-6 <= unit.min() <= unit.max() <= (200 - low) / (high - low) + 1e-6
    result = again(tmp_path, restored(image, 2))
    np.testing.assert_equal(result.nodata, nodata)
    wide = holes.repeat(2, 0).repeat(2, 1)
    expected = pixels.repeat(2, 0).repeat(2, 1)
    np.testing.assert_allclose(result.pixels[~wide], expected[~wide], rtol=1e-6)
    np.testing.assert_array_equal(result.pixels[wide], expected[wide])


def test_holes_are_filled_from_beside_them(tmp_path):
    pixels = np.full((20, 80, 1), 100, np.uint8)
    pixels[:, 40:] = 200
    pixels[:, 10:70] = 0
    unit = to_unit(write(tmp_path / "a.tif", pixels, nodata=0))[..., 0] * 255
    np.testing.assert_allclose(unit[:, :20], 100, atol=1)
    np.testing.assert_allclose(unit[:, 60:], 200, atol=1)


def test_a_result_that_happens_to_equal_nodata_stays_valid(tmp_path):
    image = write(tmp_path / "a.tif", np.full((4, 4, 1), 7, np.uint8), nodata=0)
    assert (to_pixels(np.zeros((8, 8, 1)), image.pixels.dtype, value_range(image), nodata=image.nodata) == 1).all()


def test_masks_follow_the_size(tmp_path):
    mask = np.random.default_rng(0).random((30, 40)) > 0.3
    image = write(tmp_path / "a.tif", np.full((30, 40, 3), 9, np.uint8), mask=mask)
    np.testing.assert_array_equal(image.mask, mask)
    result = again(tmp_path, restored(image, 3))
    np.testing.assert_array_equal(result.mask, mask.repeat(3, 0).repeat(3, 1))


@unplaced
def test_control_points_and_rational_polynomials_follow_the_size(tmp_path):
    corners = [(0, 0), (0, 40), (30, 0), (30, 40)]
    points = [GroundControlPoint(row=r, col=c, x=10 + c / 10, y=50 - r / 10, z=0, id=f"{r} {c}") for r, c in corners]
    image = write(tmp_path / "a.tif", np.ones((30, 40, 1), np.uint8), crs=CRS.from_epsg(4326), transform=None, gcps=points)
    assert image.grid.crs is None
    result = again(tmp_path, restored(image, 2))
    assert [(p.row, p.col, p.x, p.y) for p in result.geo.gcps] == [(2 * p.row, 2 * p.col, p.x, p.y) for p in points]
    assert result.geo.gcps_crs == CRS.from_epsg(4326)
    rpcs = RPC(
        height_off=0, height_scale=1, lat_off=50, lat_scale=1, line_den_coeff=[1.0] + [0.0] * 19, line_num_coeff=[0.0] * 20,
        line_off=14.5, line_scale=15, long_off=10, long_scale=1, samp_den_coeff=[1.0] + [0.0] * 19, samp_num_coeff=[0.0] * 20,
        samp_off=19.5, samp_scale=20, err_bias=0.5, err_rand=0.1,
    )  # fmt: skip
    plain = write(tmp_path / "b.tif", np.ones((30, 40, 1), np.uint8), crs=None, transform=None, rpcs=rpcs)
    larger = again(tmp_path, restored(plain, 2)).geo.rpcs
    # The centre of the picture, 15 rows from its outer corner, is 30 rows from it.
    assert (larger.line_off, larger.line_scale, larger.samp_off, larger.samp_scale) == (29.5, 30, 39.5, 40)


@unplaced
def test_bands_without_a_place_are_a_geotiff_too(tmp_path):
    image = write(
        tmp_path / "a.tif", np.random.default_rng(0).integers(0, 9, (5, 6, 7)).astype(np.uint8), crs=None, transform=None
    )
    assert (image.format, image.channels, image.grid.georeferenced) == ("GTiff", 7, False)
    np.testing.assert_array_equal(again(tmp_path, image).pixels, image.pixels)


def test_real_files(tmp_path, data_dir):
    folder = data_dir / "satellite"
    rgb = open_image(folder / "rasterio_tests/RGB.byte.tif")
    assert (rgb.nodata, rgb.rgb, rgb.shape, rgb.geo.colors) == (0, (0, 1, 2), (718, 791), ("red", "green", "blue"))
    larger = again(tmp_path, restored(rgb, 2))
    assert np.allclose(larger.grid.bounds, rgb.grid.bounds)
    np.testing.assert_array_equal(larger.pixels, rgb.pixels.repeat(2, 0).repeat(2, 1))
    deep = open_image(folder / "rasterio_tests/RGBA.uint16.tif")
    assert (deep.pixels.dtype, deep.alpha.dtype, deep.rgb, deep.channels) == (np.uint16, np.uint16, (2, 1, 0), 3)
    same = again(tmp_path, deep)
    assert (same.rgb, same.grid, same.geo) == (deep.rgb, deep.grid, deep.geo)
    np.testing.assert_array_equal(same.alpha, deep.alpha)
    stack = open_image(folder / "landsat7_opengeo/LE70220491999322EDC01_stack.gtif")
    assert (stack.pixels.shape, stack.pixels.dtype, stack.nodata) == ((250, 250, 8), np.int16, -9999)
    assert stack.geo.descriptions[6] == "band 6 temperature"
    np.testing.assert_array_equal(restored(stack).pixels, stack.pixels)
    cog = open_image(folder / "rasterio_tests/cogeo.tif")
    np.testing.assert_array_equal(again(tmp_path, cog).mask, cog.mask)
    rotated = open_image(folder / "rasterio_tests/rotated.tif")
    larger = again(tmp_path, restored(rotated, 2))
    np.testing.assert_allclose(larger.grid.to_map([0, 20, 7], [0, 30, 9]), rotated.grid.to_map([0, 10, 3.5], [0, 15, 4.5]))


def test_classes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="colour table holds classes, not brightness"):
        write(tmp_path / "a.tif", np.ones((4, 4, 1), np.uint8), describe=lambda dst: dst.write_colormap(1, {1: (1, 2, 3, 255)}))


def test_a_georeference_that_png_cannot_hold_is_told(tmp_path, caplog):
    image = write(tmp_path / "a.tif", np.ones((4, 4, 3), np.uint8), nodata=0)
    write_image(tmp_path / "a.png", image)
    assert "PNG has no place for the georeference, nodata value, left out" in caplog.text


def test_details_have_defaults(tmp_path):
    geo = GeoDetails(descriptions=(None,), colors=("gray",), scales=(1.0,), offsets=(0.0,), units=(None,))
    image = Image(pixels=np.ones((2, 2, 1), np.int16), geo=geo, grid=Grid(2, 2, None, TRANSFORM))
    assert again(tmp_path, image).grid == image.grid


@pytest.mark.parametrize("factor", [2, 3, 0.5, 1.5])
def test_a_scaled_grid_covers_the_same_area(factor):
    grid = Grid(30, 40, CRS.from_epsg(32633), Affine(8.0, 3.0, 4e5, 3.0, -8.0, 5.8e6))
    scaled = grid.scaled(factor)
    assert (scaled.shape, scaled.crs) == ((30 * factor, 40 * factor), grid.crs)
    np.testing.assert_allclose(scaled.bounds, grid.bounds)
    with pytest.raises(ValueError, match="scale 0"):
        grid.scaled(0)
