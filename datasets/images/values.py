"""Pixels as floats in 0..1 and back: value ranges, nodata, alpha."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.fill import fillnodata

from .image import Image, Pixels
from .validity import Range, as_type, check_finite, checked_range, invalid_pixels, tell_if_dark, value_range

logger = logging.getLogger(__name__)

REACH = 32  # pixels from a valid one up to which nodata is filled by interpolation; further away it has no influence that shows


def to_unit(image: Image, value_range: Range | None = None, *, means: Sequence[float] | None = None) -> NDArray[np.float32]:
    """Pixels (H, W, C) as float32, 0..1 over a range of values; alpha is not applied.

    Invalid pixels (nodata, mask) are filled from their valid neighbours, so that no edge is there which rings into the valid
    ones; ``to_pixels`` makes them invalid again. The range is told in the log if it is not that of the type.

    Args:
        image: The image.
        value_range: The values that become 0 and 1; ``value_range(image)`` if none is given. Values outside it are kept, as
            numbers below 0 or above 1.
        means: of each band, what pixels further than ``REACH`` from a valid one become; those of the image if none are given. A
            window of an image that is read with ``REACH`` pixels around it is filled as the whole, given the whole one's.

    Raises:
        ValueError: NaN or infinite pixels that are not nodata, no valid pixel, or a range that is empty.
    """
    check_finite(image)
    low, high = _range(image, value_range)
    if value_range is None and (low, high) != (0.0, image.peak):
        logger.info("%s: %s values %g to %g become 0 to 1", image.name, image.pixels.dtype, low, high)
    invalid = invalid_pixels(image)
    if value_range is None and image.pixels.dtype == np.uint16 and image.format == "GTiff":
        tell_if_dark(image.name, int(image.pixels.max(initial=0, where=True if invalid is None else ~invalid)))
    unit: NDArray[np.float32] = image.pixels.astype(np.float32)
    unit -= np.float32(low)
    unit *= np.float32(1 / (high - low))
    if invalid is None:
        return unit
    return _filled(unit, np.broadcast_to(invalid, unit.shape), _scaled(means, (low, high)))


def _scaled(means: Sequence[float] | None, values: Range) -> list[float] | None:
    low, high = values
    return None if means is None else [(mean - low) / (high - low) for mean in means]


def to_pixels(
    unit: NDArray[Any],
    dtype: np.dtype[Any],
    value_range: Range,
    *,
    bounded: bool = False,
    nodata: float | None = None,
    invalid: NDArray[np.bool_] | None = None,
) -> Pixels:
    """Turn floats in 0..1 over a range into pixels, rounded and clipped to their type.

    Args:
        unit: of any shape.
        dtype: of the pixels.
        value_range: the values that 0 and 1 stand for.
        bounded: whether floats are clipped to the range, too.
        nodata: what a valid pixel does not become: it moves to the next value.
        invalid: pixels that become nodata; a shape that ``unit`` can be broadcast from.
    """
    low, high = value_range
    values = unit.astype(np.float32) * np.float32(high - low) + np.float32(low)
    if bounded:
        np.clip(values, low, high, out=values)
    pixels = _to_type(values, dtype)
    return pixels if nodata is None else _with_nodata(pixels, nodata, invalid)


def unit_alpha(image: Image) -> NDArray[np.float32] | None:
    """Alpha (H, W) as float32 in 0..1, or None if there is none."""
    return None if image.alpha is None else image.alpha.astype(np.float32) / np.float32(image.peak)


def fill_transparent(
    unit: NDArray[np.float32], alpha: NDArray[Any], *, means: Sequence[float] | None = None
) -> NDArray[np.float32]:
    """Fill colours (H, W, C) in place where alpha (H, W) is 0 from their neighbours, and return them; ``means`` are in 0..1.

    To be done before anything that mixes neighbours, such as a network: colours that nobody sees are arbitrary (often black or
    white) and would bleed into the visible ones.
    """
    clear = np.broadcast_to(alpha[..., None] == 0, unit.shape)
    if not clear.any() or (means is None and clear.all()):
        return unit
    return _filled(unit, clear, means)


def _range(image: Image, given: Range | None) -> Range:
    return value_range(image) if given is None else checked_range(given)


def _to_type(values: NDArray[np.float32], dtype: np.dtype[Any]) -> Pixels:
    if dtype.kind == "f":
        return values.astype(dtype, copy=False)
    info = np.iinfo(dtype)
    return np.clip(np.rint(values), info.min, info.max).astype(dtype)


def _with_nodata(pixels: Pixels, nodata: float, invalid: NDArray[np.bool_] | None) -> Pixels:
    value = as_type(nodata, pixels.dtype)
    if value is None:
        return pixels
    if pixels.dtype.kind == "f":
        beside = np.nextafter(value, pixels.dtype.type(0 if value else 1))
    else:
        beside = value + 1 if value < np.iinfo(pixels.dtype).max else value - 1
    pixels[pixels == value] = beside
    if invalid is not None:
        np.copyto(pixels, value, where=invalid)
    return pixels


def _filled(unit: NDArray[np.float32], invalid: NDArray[np.bool_], means: Sequence[float] | None) -> NDArray[np.float32]:
    for band in range(unit.shape[2]):
        holes = invalid[..., band]
        if not holes.any():
            continue
        plane = np.ascontiguousarray(unit[..., band])
        if means is not None:
            plane[holes] = means[band]
        else:
            plane[holes] = plane[~holes].mean(dtype=np.float64) if not holes.all() else 0
        if not holes.all():
            fillnodata(plane, mask=~holes, max_search_distance=REACH)
        unit[..., band] = plane
    return unit
