"""Which pixels of an image hold something, and what must be known of all of them before parts of it are worked on."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .image import Image, peak_of

logger = logging.getLogger(__name__)

Range = tuple[float, float]

_DARK = 4  # 16-bit images that use less than this part of their range deserve a hint
_SURVEYED = 2**25  # values that are looked at in one go


class Windows(Protocol):
    """An image that is read window by window."""

    @property
    def name(self) -> str:
        """Its file, for messages."""
        ...

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        ...

    @property
    def channels(self) -> int:
        """Number of bands, alpha not among them."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pixels."""
        ...

    @property
    def nodata(self) -> float | None:
        """Value of pixels that hold nothing; None if there is none."""
        ...

    @property
    def transparent(self) -> bool:
        """Whether there is alpha."""
        ...

    @property
    def masked(self) -> bool:
        """Whether there is a mask."""
        ...

    @property
    def format(self) -> str:
        """As of ``Image``."""
        ...

    def read(self, row: int, column: int, height: int, width: int) -> Image:
        """Return a window of it, without grid and details."""
        ...


@dataclass(frozen=True)
class Survey:
    """What is known of a whole image.

    Args:
        value_range: the values that become 0 and 1.
        means: of each band, over the pixels that hold something.
    """

    value_range: Range
    means: tuple[float, ...]


def survey(image: Windows, value_range: Range | None = None) -> Survey:
    """Look at all of an image; ``value_range`` and errors as of ``to_unit``, notes in the log likewise."""
    if image.dtype.kind == "u" and image.nodata is None and not (image.transparent or image.masked):
        told = value_range is not None or image.dtype != np.uint16 or image.format != "GTiff"
        if told:  # by the type, and nothing is to be filled
            found = (0.0, peak_of(image.dtype)) if value_range is None else checked_range(value_range)
            return Survey(found, (found[0],) * image.channels)
    seen = _Seen(image.name)
    for part in _strips(image):
        seen.add(part)
    return seen.survey(value_range)


def _strips(image: Windows) -> Iterator[Image]:
    height, width = image.shape
    step = max(_SURVEYED // (width * image.channels) // 256, 1) * 256
    for row in range(0, height, step):
        yield image.read(row, 0, min(step, height - row), width)


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
    seen = _Seen(image.name)
    seen.add(image)
    return seen.range


class _Seen:
    """What was seen of an image so far, part by part from the top."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._rows = 0
        self._bad = 0
        self._first = (0, 0)
        # Of pixels that are valid, and of those of them that can be seen.
        self._valid, self._visible = _Figures(), _Figures()
        self._opaque: bool | None = None

    def add(self, part: Image) -> None:
        bad = _not_finite(part)
        if bad is not None:
            if not self._bad:
                row, column = (int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape))
                self._first = self._rows + row, column
            self._bad += int(bad.sum())
        self._rows += part.shape[0]
        self._kind = part.pixels.dtype, part.format
        if self._bad:
            return
        invalid = invalid_pixels(part)
        self._valid.add(part, invalid)
        if part.alpha is not None:
            clear: NDArray[np.bool_] = part.alpha[..., None] == 0
            self._visible.add(part, clear if invalid is None else invalid | clear)
            self._opaque = False

    @property
    def _figures(self) -> "_Figures":
        return self._visible if self._opaque is False and self._visible.counts.any() else self._valid

    def check(self) -> None:
        if self._bad:
            raise _not_finite_error(self._name, self._bad, self._first)

    @property
    def range(self) -> Range:
        self.check()
        dtype, format_ = self._kind
        if dtype.kind == "u":
            return 0.0, peak_of(dtype)
        figures = self._figures
        if not figures.counts.any():
            raise ValueError(f"{self._name}: no valid pixel")
        low, high = figures.low, figures.high
        if dtype.kind == "f" and format_ != "GTiff" and low >= 0 and high <= 1:
            return 0.0, 1.0
        return low, high if high > low else low + 1

    def survey(self, given: Range | None) -> Survey:
        self.check()
        dtype, format_ = self._kind
        found = self.range if given is None else checked_range(given)
        if given is None and found != (0.0, peak_of(dtype)):
            logger.info("%s: %s values %g to %g become 0 to 1", self._name, dtype, *found)
        if given is None and dtype == np.uint16 and format_ == "GTiff":
            tell_if_dark(self._name, int(max(self._valid.high, 0)))
        figures = self._figures
        means = np.where(figures.counts > 0, figures.sums / np.maximum(figures.counts, 1), found[0])
        return Survey(found, tuple(map(float, means)))


class _Figures:
    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf
        self.sums: NDArray[np.float64] = np.zeros(1)
        self.counts: NDArray[np.int64] = np.zeros(1, np.int64)

    def add(self, part: Image, invalid: NDArray[np.bool_] | None) -> None:
        for band in range(part.channels):
            if len(self.sums) < part.channels:
                self.sums, self.counts = np.zeros(part.channels), np.zeros(part.channels, np.int64)
            plane = part.pixels[..., band]
            if invalid is not None:
                plane = plane[~invalid[..., min(band, invalid.shape[2] - 1)]]
            if plane.size:
                self.low, self.high = min(self.low, float(plane.min())), max(self.high, float(plane.max()))
                self.sums[band] += plane.sum(dtype=np.float64)
                self.counts[band] += plane.size


def tell_if_dark(name: str, brightest: int) -> None:
    """Hint in the log at a value range for a GeoTIFF of uint16, if its brightest valid value is far from the type's."""
    peak = peak_of(np.dtype(np.uint16))
    if brightest < peak / _DARK:
        logger.warning(
            "%s: its brightest value is %d of 65535, so a model sees it dark: a value range (0, %d) may serve better",
            name, brightest, brightest,
        )  # fmt: skip


def checked_range(given: Range) -> Range:
    """Return a range that a user gave, or raise a ValueError in one line."""
    if not (np.isfinite(given).all() and given[0] < given[1]):
        raise ValueError(f"value range {given[0]:g} to {given[1]:g}: expected two numbers, the lower first")
    return float(given[0]), float(given[1])


def invalid_pixels(image: Image) -> NDArray[np.bool_] | None:
    """Where there is nothing, by nodata (per band) and mask: (H, W, C), or (H, W, 1) if the same for all; None if nowhere."""
    invalid: NDArray[np.bool_] | None = None
    if image.nodata is not None:
        if np.isnan(image.nodata):
            invalid = np.isnan(image.pixels) if image.pixels.dtype.kind == "f" else None
        elif (value := as_type(image.nodata, image.pixels.dtype)) is not None:
            invalid = image.pixels == value
    if image.mask is not None:
        masked = ~image.mask[..., None]
        invalid = masked if invalid is None else invalid | masked
    return invalid if invalid is not None and invalid.any() else None


def check_finite(image: Image) -> None:
    """Raise a ValueError in one line if pixels are NaN or infinite and are not said to be invalid."""
    bad = _not_finite(image)
    if bad is not None:
        row, column = (int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape))
        raise _not_finite_error(image.name, int(bad.sum()), (row, column))


def _not_finite_error(name: str, count: int, first: tuple[int, int]) -> ValueError:
    row, column = first
    return ValueError(
        f"{name}: {count} pixels are NaN or infinite, the first at row {row}, column {column}; "
        "set nodata to nan if they hold nothing"
    )


def _not_finite(image: Image) -> NDArray[np.bool_] | None:
    """Where (H, W) pixels are NaN or infinite and are not said to be invalid; None if nowhere."""
    if image.pixels.dtype.kind != "f" or np.isfinite(image.pixels.sum(dtype=np.float64)):
        return None
    bad = ~np.isfinite(image.pixels)
    invalid = invalid_pixels(image)
    if invalid is not None:
        bad &= ~invalid
    found: NDArray[np.bool_] = np.asarray(bad.any(axis=-1))
    return found if found.any() else None


def as_type(value: float, dtype: np.dtype[Any]) -> Any:
    """Return ``value`` in ``dtype``, or None if that cannot hold it, so that no pixel equals it."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return dtype.type(value)
    info = np.iinfo(dtype)
    return dtype.type(value) if info.min <= value <= info.max and value == int(value) else None
