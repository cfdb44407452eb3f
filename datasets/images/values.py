"""Pixels as floats in 0..1 and back: value ranges, nodata, alpha."""

import logging
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.fill import fillnodata

from .geotiff import resized_details
from .image import Image, Pixels, peak_of

logger = logging.getLogger(__name__)

Range = tuple[float, float]

_REACH = 32  # pixels from a valid one up to which nodata is filled by interpolation; further away it has no influence that shows
_DARK = 4  # 16-bit images that use less than this part of their range deserve a hint


def value_range(image: Image) -> Range:
    """The values that become 0 and 1 if the user names none.

    By the type: 0..255 and 0..65535 for uint8 and uint16, whatever the values are; 0..1 for floats that are no GeoTIFF and lie
    there. For int16, and for other floats, the least and the greatest valid value of all bands together: the type says nothing
    of their range; wholly transparent pixels do not count. Constant images get a range of width 1.

    Raises:
        ValueError: NaN or infinite pixels, or none that is valid, where the range depends on them.
    """
    if image.pixels.dtype.kind == "u":
        return 0.0, image.peak
    check_finite(image)
    invalid = _hidden(image)
    valid = image.pixels if invalid is None else image.pixels[~np.broadcast_to(invalid, image.pixels.shape)]
    if valid.size == 0:
        raise ValueError(f"{image.name}: no valid pixel")
    low, high = float(valid.min()), float(valid.max())
    if image.pixels.dtype.kind == "f" and image.format != "GTiff" and low >= 0 and high <= 1:
        return 0.0, 1.0
    return low, high if high > low else low + 1


def to_unit(image: Image, value_range: Range | None = None) -> NDArray[np.float32]:
    """Pixels (H, W, C) as float32, 0..1 over a range of values; alpha is not applied.

    Invalid pixels (nodata, mask) are filled from their valid neighbours, so that no edge is there which rings into the valid
    ones; ``from_unit`` makes them invalid again. The range is told in the log if it is not that of the type.

    Args:
        image: The image.
        value_range: The values that become 0 and 1; ``value_range(image)`` if none is given. Values outside it are kept, as
            numbers below 0 or above 1.

    Raises:
        ValueError: NaN or infinite pixels that are not nodata, no valid pixel, or a range that is empty.
    """
    check_finite(image)
    low, high = _range(image, value_range)
    if value_range is None and (low, high) != (0.0, image.peak):
        logger.info("%s: %s values %g to %g become 0 to 1", image.name, image.pixels.dtype, low, high)
    invalid = invalid_pixels(image)
    if value_range is None and image.pixels.dtype == np.uint16 and image.format == "GTiff":
        brightest = int(image.pixels.max(initial=0, where=True if invalid is None else ~invalid))
        if brightest < image.peak / _DARK:
            logger.warning(
                "%s: its brightest value is %d of 65535, so a model sees it dark: a value range (0, %d) may serve better",
                image.name, brightest, brightest,
            )  # fmt: skip
    unit: NDArray[np.float32] = image.pixels.astype(np.float32)
    unit -= np.float32(low)
    unit *= np.float32(1 / (high - low))
    return unit if invalid is None else _filled(unit, np.broadcast_to(invalid, unit.shape))


def from_unit(unit: NDArray[Any], like: Image, *, alpha: NDArray[Any] | None = None, value_range: Range | None = None) -> Image:
    """The image whose ``to_unit`` is ``unit``, of the same type, range and metadata as ``like``, which may be of another size.

    Values are rounded and clipped to the type. Grid, control points, nodata and mask follow the size (the latter two by nearest
    neighbour); a valid value that would equal nodata moves to the next one.

    Args:
        unit: (H', W', C) floats; ``like.pixels`` has C bands too.
        like: What was restored.
        alpha: (H', W') floats in 0..1; must be given if ``like`` has alpha and another size.
        value_range: As it was given to ``to_unit``.

    Raises:
        ValueError: NaN in ``unit``, another number of bands, or alpha missing.
    """
    if unit.ndim != like.pixels.ndim or unit.shape[2] != like.channels:
        raise ValueError(f"{like.name}: result of shape {unit.shape} for an image of {like.channels} channels")
    if not np.isfinite(unit).all():
        raise ValueError(f"{like.name}: {int((~np.isfinite(unit)).sum())} values of the result are NaN or infinite")
    low, high = _range(like, value_range)
    shape = (int(unit.shape[0]), int(unit.shape[1]))
    values = unit.astype(np.float32) * np.float32(high - low) + np.float32(low)
    if like.pixels.dtype.kind == "f" and (low, high) == (0.0, 1.0) and like.format != "GTiff":
        np.clip(values, 0, 1, out=values)
    pixels = _to_type(values, like.pixels.dtype)
    if like.nodata is not None:
        invalid = invalid_pixels(like)
        pixels = _with_nodata(pixels, like.nodata, None if invalid is None else _nearest(invalid, shape))
    opacity = like.alpha if alpha is None else _to_type(np.clip(alpha, 0, 1) * peak_of(like.pixels.dtype), like.pixels.dtype)
    if opacity is not None and opacity.shape != shape:
        raise ValueError(f"{like.name}: alpha of shape {opacity.shape} for a result of {shape}")
    return replace(
        like,
        pixels=pixels,
        alpha=opacity,
        mask=None if like.mask is None else _nearest(like.mask, shape),
        grid=None if like.grid is None else like.grid.resized(*shape),
        geo=None if like.geo is None else resized_details(like.geo, shape[0] / like.shape[0], shape[1] / like.shape[1]),
    )


def unit_alpha(image: Image) -> NDArray[np.float32] | None:
    """Alpha (H, W) as float32 in 0..1, or None if there is none."""
    return None if image.alpha is None else image.alpha.astype(np.float32) / np.float32(image.peak)


def fill_transparent(unit: NDArray[np.float32], alpha: NDArray[Any]) -> NDArray[np.float32]:
    """Fill colours (H, W, C) in place where alpha (H, W) is 0 from their neighbours, and return them.

    To be done before anything that mixes neighbours, such as a network: colours that nobody sees are arbitrary (often black or
    white) and would bleed into the visible ones.
    """
    clear = np.broadcast_to(alpha[..., None] == 0, unit.shape)
    return unit if clear.all() or not clear.any() else _filled(unit, clear)


def invalid_pixels(image: Image) -> NDArray[np.bool_] | None:
    """Where there is nothing, by nodata (per band) and mask: (H, W, C), or (H, W, 1) if the same for all; None if nowhere."""
    invalid: NDArray[np.bool_] | None = None
    if image.nodata is not None:
        if np.isnan(image.nodata):
            invalid = np.isnan(image.pixels) if image.pixels.dtype.kind == "f" else None
        elif (value := _as_type(image.nodata, image.pixels.dtype)) is not None:
            invalid = image.pixels == value
    if image.mask is not None:
        masked = ~image.mask[..., None]
        invalid = masked if invalid is None else invalid | masked
    return invalid if invalid is not None and invalid.any() else None


def _hidden(image: Image) -> NDArray[np.bool_] | None:
    """Where values say nothing: invalid pixels, and wholly transparent ones unless all are; shapes as of ``invalid_pixels``."""
    invalid = invalid_pixels(image)
    if image.alpha is None or image.alpha.all() or not image.alpha.any():
        return invalid
    clear: NDArray[np.bool_] = image.alpha[..., None] == 0
    return clear if invalid is None else invalid | clear


def check_finite(image: Image) -> None:
    """Raise a ValueError in one line if pixels are NaN or infinite and are not said to be invalid."""
    if image.pixels.dtype.kind != "f" or np.isfinite(image.pixels.sum(dtype=np.float64)):
        return
    bad = ~np.isfinite(image.pixels)
    invalid = invalid_pixels(image)
    if invalid is not None:
        bad &= ~invalid
    if bad.any():
        row, column, _ = (int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape))
        raise ValueError(
            f"{image.name}: {int(bad.any(axis=-1).sum())} pixels are NaN or infinite, the first at row {row}, column {column}; "
            "set nodata to nan if they hold nothing"
        )


def _range(image: Image, given: Range | None) -> Range:
    if given is None:
        return value_range(image)
    if not (np.isfinite(given).all() and given[0] < given[1]):
        raise ValueError(f"value range {given[0]:g} to {given[1]:g}: expected two numbers, the lower first")
    return float(given[0]), float(given[1])


def _to_type(values: NDArray[np.float32], dtype: np.dtype[Any]) -> Pixels:
    if dtype.kind == "f":
        return values.astype(dtype, copy=False)
    info = np.iinfo(dtype)
    return np.clip(np.rint(values), info.min, info.max).astype(dtype)


def _as_type(value: float, dtype: np.dtype[Any]) -> Any:
    """``value`` in ``dtype``, or None if that cannot hold it, so that no pixel equals it."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return dtype.type(value)
    info = np.iinfo(dtype)
    return dtype.type(value) if info.min <= value <= info.max and value == int(value) else None


def _with_nodata(pixels: Pixels, nodata: float, invalid: NDArray[np.bool_] | None) -> Pixels:
    value = _as_type(nodata, pixels.dtype)
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


def _nearest(mask: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask (H, W, ...) in another size: each pixel as the old one in which its centre lies."""
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(shape, mask.shape[:2], strict=True))
    chosen: NDArray[np.bool_] = mask[rows][:, columns]
    return chosen


def _filled(unit: NDArray[np.float32], invalid: NDArray[np.bool_]) -> NDArray[np.float32]:
    for band in range(unit.shape[2]):
        holes = invalid[..., band]
        if not holes.any():
            continue
        plane = np.ascontiguousarray(unit[..., band])
        plane[holes] = plane[~holes].mean(dtype=np.float64) if not holes.all() else 0
        if not holes.all():
            fillnodata(plane, mask=~holes, max_search_distance=_REACH)
        unit[..., band] = plane
    return unit
