import logging

import numpy as np
import pytest

from geovit.datasets.images import (
    Image,
    check_finite,
    fill_transparent,
    to_pixels,
    to_unit,
    value_range,
)


def back(unit, image, **options):
    return to_pixels(unit, image.pixels.dtype, value_range(image), **options)


def every(dtype):
    """Each value of an integer type, as (256, N, 1)."""
    info = np.iinfo(dtype)
    return np.arange(info.min, info.max + 1).reshape(256, -1, 1).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
def test_every_value_comes_back(dtype, caplog):
    caplog.set_level(logging.INFO)
    image = Image(pixels=every(dtype))
    unit = to_unit(image)
    assert (unit.dtype, unit.min(), unit.max()) == (np.float32, 0, 1)
    np.testing.assert_array_equal(back(unit, image), image.pixels)
    assert ("int16 values -32768 to 32767 become 0 to 1" in caplog.text) == (dtype == "int16")


def test_sixteen_bits_are_told_by_the_type_not_by_values():
    dark = Image(pixels=np.full((2, 2, 3), 200, np.uint16))
    assert value_range(dark) == (0, 65535)
    np.testing.assert_allclose(to_unit(dark), 200 / 65535, rtol=1e-6)


def test_a_dark_geotiff_gets_a_hint_not_a_guess(caplog):
    image = Image(pixels=np.full((2, 2, 3), 9000, np.uint16), format="GTiff")
    np.testing.assert_allclose(to_unit(image), 9000 / 65535, rtol=1e-6)
    assert "brightest value is 9000 of 65535" in caplog.text
    caplog.clear()
    np.testing.assert_allclose(to_unit(image, (0, 10000)), 0.9, rtol=1e-6)
    assert not caplog.text


def test_results_are_rounded_and_clipped():
    unit = np.array([-0.3, 0.5, 100.6 / 255, 1.7])
    assert to_pixels(unit, np.dtype(np.uint8), (0, 255)).tolist() == [0, 128, 101, 255]
    bounded, free = (to_pixels(unit, np.dtype(np.float32), (0, 1), bounded=bounded) for bounded in (True, False))
    assert bounded.tolist() == [0, 0.5, np.float32(100.6 / 255), 1]
    np.testing.assert_array_equal(free, unit.astype(np.float32))


def test_a_range_that_is_given_maps_back_and_values_beyond_it_survive():
    image = Image(pixels=np.array([-100, 0, 3000, 12000], np.int16).reshape(1, 4, 1))
    unit = to_unit(image, (0, 10000))
    np.testing.assert_allclose(unit.ravel(), [-0.01, 0, 0.3, 1.2], rtol=1e-6)
    np.testing.assert_array_equal(to_pixels(unit, image.pixels.dtype, (0, 10000)), image.pixels)
    with pytest.raises(ValueError, match="value range 5 to 5: expected two numbers, the lower first"):
        to_unit(image, (5, 5))


def test_a_constant_image_has_a_range():
    image = Image(pixels=np.full((3, 3, 2), -7, np.int16), format="GTiff")
    np.testing.assert_array_equal(back(to_unit(image), image), image.pixels)


def test_no_valid_pixel():
    with pytest.raises(ValueError, match="no valid pixel"):
        to_unit(Image(pixels=np.full((3, 3, 2), -7, np.int16), nodata=-7))
    np.testing.assert_array_equal(to_unit(Image(pixels=np.zeros((3, 3, 1), np.uint8), nodata=0)), 0)


def test_nan_is_an_error_that_says_where():
    pixels = np.ones((5, 6, 3), np.float32)
    pixels[2, 4, 1] = np.nan
    pixels[3, 0, :] = np.inf
    with pytest.raises(ValueError, match="x.tif: 2 pixels are NaN or infinite, the first at row 2, column 4; set nodata to nan"):
        check_finite(Image(pixels=pixels, name="x.tif"))
    with pytest.raises(ValueError, match="2 pixels are NaN"):
        to_unit(Image(pixels=pixels))
    pixels[3] = np.nan
    check_finite(Image(pixels=pixels, nodata=np.nan))
    mask = np.ones((5, 6), bool)
    mask[2:4] = False
    check_finite(Image(pixels=pixels, mask=mask))
    assert np.isfinite(to_unit(Image(pixels=pixels, mask=mask))).all()


def test_colours_under_transparent_pixels_do_not_bleed():
    # A red disc on transparent green: whatever is mixed with the disc must be red.
    rows, columns = np.mgrid[:32, :32]
    disc = (rows - 16) ** 2 + (columns - 16) ** 2 < 100
    pixels = np.where(disc[..., None], (200, 0, 0), (0, 255, 0)).astype(np.uint8)
    unit = fill_transparent(to_unit(Image(pixels=pixels)), disc)
    np.testing.assert_allclose(unit, np.broadcast_to(np.float32([200 / 255, 0, 0]), unit.shape), atol=1e-6)


def test_what_is_hidden_sets_no_range():
    pixels = np.array([[[3], [9], [5000]]], np.int16)
    assert value_range(Image(pixels=pixels, alpha=np.array([[7, 7, 0]], np.int16))) == (3, 9)
    assert value_range(Image(pixels=pixels, alpha=np.zeros((1, 3), np.int16))) == (3, 5000)


def test_a_nodata_value_that_the_type_cannot_hold_is_nowhere():
    image = Image(pixels=np.zeros((2, 2, 1), np.uint8), nodata=-9999)
    np.testing.assert_array_equal(back(to_unit(image), image, nodata=image.nodata), 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pixels": np.zeros((2, 2), np.uint8)}, r"expected \(height, width, channels\)"),
        ({"pixels": np.zeros((0, 2, 1), np.uint8)}, "none of them 0"),
        ({"pixels": np.zeros((2, 2, 1), np.int32)}, "pixels of type int32, expected uint8"),
        ({"pixels": np.zeros((2, 2, 1), np.uint8), "alpha": np.zeros((2, 2), np.uint16)}, "alpha .* does not fit"),
        ({"pixels": np.zeros((2, 2, 1), np.uint8), "mask": np.zeros((2, 3), bool)}, "mask .* does not fit"),
    ],
)
def test_parts_that_do_not_fit_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Image(**options)
