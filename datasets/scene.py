"""Scenes: one lazy view of every raster format, bands in order of wavelength, NaN for nodata."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from .band_tags import BandTags
from .grid import Grid
from .raster_source import Numbers, Stored

logger = logging.getLogger(__name__)

_SCAN_VALUES = 2**24  # values read at once when looking for empty bands: 64 MB


class BandSource(Protocol):
    """Pixels on disk, by band and window. Holds paths, or handles that other processes open again: safe to pickle and to fork."""

    @property
    def block(self) -> tuple[int, int]:
        """Height and width of the blocks that the file is best read by."""
        ...

    def read(self, bands: Sequence[int], window: Window | None) -> NDArray[np.float32]:
        """Bands (1-based, in the given order) as (C, h, w) float32, NaN where invalid; scale and offset not applied."""
        ...


@runtime_checkable
class Storing(Protocol):
    """A source whose numbers can be had as they are."""

    def stored(self, bands: Sequence[int]) -> Stored | None:
        """None for bands of which numbers alone do not tell what ``BandSource.read`` does."""
        ...

    def read_numbers(self, bands: Sequence[int], window: Window, out: NDArray[Any]) -> None:
        """Read bands (1-based) into (C, h, w) of ``stored``'s type, which may be a view."""
        ...


@runtime_checkable
class Decimating(Protocol):
    """A source that reads a picture of a large window without reading all of it."""

    def decimated(self, bands: Sequence[int], window: Window, shape: tuple[int, int]) -> NDArray[np.float32]:
        """Like ``BandSource.read``, a window brought to (height, width) by nearest neighbour."""
        ...


@dataclass(frozen=True, eq=False)
class Scene:
    """A multi-band image on disk.

    ``bands`` are the 1-based file indices of the bands that ``read`` delivers, in its order: by wavelength where the file has
    wavelengths (stable, so that overlapping detectors keep their file order at equal wavelength), else as in the file.
    ``wavelengths`` and ``fwhm`` (nm, float64) follow the same order and are None where the file does not say: nothing is
    invented. ``dropped`` maps the other file bands to the reason. ``nodata`` is the file's value for band 1, for information:
    ``read`` has replaced it by NaN. ``numbers`` tells what the file says of its numbers beside that.
    """

    path: str
    grid: Grid
    bands: tuple[int, ...]
    wavelengths: NDArray[np.float64] | None
    fwhm: NDArray[np.float64] | None
    dropped: dict[int, str]
    nodata: float | None
    _source: BandSource
    numbers: Numbers = field(default_factory=lambda: Numbers(np.dtype(np.float32), marked=False))

    @property
    def num_bands(self) -> int:
        """Number of bands that ``read`` delivers."""
        return len(self.bands)

    def read(self, window: Window | None = None) -> NDArray[np.float32]:
        """Pixels as (C, h, w) float32: raw values (scale and offset tags not applied), NaN where a value is not valid.

        Not valid are the band's nodata value, what a mask or alpha band hides, and what is not finite. A pixel is usable when
        all its bands are finite. The file is opened for this call only, so scenes may be used in forked workers.

        Raises:
            ValueError: window outside the scene, or the file turns out damaged.
        """
        if window is not None:
            self._check(window)
        return self._source.read(self.bands, window)

    @cached_property
    def stored(self) -> Stored:
        """How ``read_numbers`` gives the pixels: float32 with NaN for nodata, or small integers as the file has them."""
        told = self._source.stored(self.bands) if isinstance(self._source, Storing) else None
        return told or Stored(np.dtype(np.float32), (None,) * self.num_bands)

    def read_numbers(self, window: Window, out: NDArray[Any]) -> None:
        """Read pixels into (C, h, w) of the type that ``stored`` tells; for a scene of small integers nothing is converted.

        Raises:
            ValueError: as in ``read``.
        """
        self._check(window)
        if isinstance(self._source, Storing) and self._source.stored(self.bands):
            self._source.read_numbers(self.bands, window, out)
        else:
            out[:] = self._source.read(self.bands, window)

    @property
    def block(self) -> tuple[int, int]:
        """Height and width of the blocks that the file is best read by."""
        return self._source.block

    def with_bands(self, positions: Sequence[int]) -> "Scene":
        """The same scene with some of its bands only, in the order of these positions."""
        at = list(positions)
        bands = tuple(self.bands[i] for i in at)
        wavelengths, fwhm = (None if values is None else values[at] for values in (self.wavelengths, self.fwhm))
        return replace(self, bands=bands, wavelengths=wavelengths, fwhm=fwhm)

    def preview(self, bands: Sequence[int], window: Window, shape: tuple[int, int]) -> NDArray[np.float32]:
        """Return some bands of a window made smaller, (bands, *shape): of each block of pixels one, near its middle.

        From overviews where the file has them.

        Args:
            bands: positions in what ``read`` delivers.
            window: within the scene.
            shape: rows and columns, no more than the window's.

        Raises:
            ValueError: as in ``read``.
        """
        self._check(window)
        chosen = [self.bands[band] for band in bands]
        if isinstance(self._source, Decimating):
            return self._source.decimated(chosen, window, shape)
        (top, bottom), (left, _) = window.toranges()
        rows, columns = (_middles(size, n) for size, n in zip((window.height, window.width), shape, strict=True))
        small = np.empty((len(chosen), *shape), np.float32)
        strip = max(_SCAN_VALUES // (len(chosen) * window.width), 1)
        for row in range(top, bottom, strip):
            inside = (rows + top >= row) & (rows + top < row + strip)
            if inside.any():
                part = self._source.read(chosen, Window(left, row, window.width, min(strip, bottom - row)))
                small[:, inside] = part[:, rows[inside] + top - row][:, :, columns]
        return small

    def _check(self, window: Window) -> None:
        whole = all(float(value).is_integer() for value in window.flatten())
        (top, bottom), (left, right) = window.toranges()
        if not (whole and 0 <= top < bottom <= self.grid.height and 0 <= left < right <= self.grid.width):
            raise ValueError(f"{window}: expected whole pixels within the scene of {self.grid.height} x {self.grid.width}")


def _middles(size: int, count: int) -> NDArray[np.int64]:
    return ((np.arange(count) + 0.5) * size / count).astype(np.int64)


def scene_of(
    path: str, grid: Grid, tags: BandTags, source: BandSource, count: int, *, nodata: float | None, numbers: Numbers
) -> Scene:
    """A scene of those of ``count`` bands that are of use, in order of wavelength. What every opener ends with.

    Bands are dropped that ``tags`` calls bad or alpha, and those without a single valid value, which takes reading some.

    Raises:
        ValueError: no band is left, or no valid value at all; or the file turns out damaged.
    """
    dropped = dict.fromkeys(tags.alpha, "alpha")
    if tags.good is not None:
        dropped |= {int(i) + 1: "bad band list" for i in np.flatnonzero(~tags.good)}
    candidates = [band for band in range(1, count + 1) if band not in dropped]
    if not candidates:
        raise ValueError(f"{path}: all {count} bands are marked bad")
    empty = _empty_bands(source, grid, candidates)
    if len(empty) == len(candidates):
        raise ValueError(f"{path}: every pixel is nodata")
    dropped |= dict.fromkeys(empty, "no data")
    bands = np.array([band for band in candidates if band not in dropped])
    wavelengths, fwhm = (None if values is None else values[bands - 1] for values in (tags.wavelengths, tags.fwhm))
    if wavelengths is not None and np.isnan(wavelengths).any():
        if not np.isnan(wavelengths).all():
            logger.warning(
                "%s: %d of %d bands have no wavelength; all are ignored", path, np.isnan(wavelengths).sum(), len(bands)
            )
        wavelengths = None
    if wavelengths is not None:
        order = np.argsort(wavelengths, kind="stable")
        bands, wavelengths, fwhm = bands[order], wavelengths[order], None if fwhm is None else fwhm[order]
    if wavelengths is None or (fwhm is not None and not (fwhm > 0).all()):
        fwhm = None
    if dropped:
        logger.info("%s: %d of %d bands dropped (bad band list, no data or alpha)", path, len(dropped), count)
    return Scene(path, grid, tuple(bands.tolist()), wavelengths, fwhm, dict(sorted(dropped.items())), nodata, source, numbers)


def _empty_bands(source: BandSource, grid: Grid, bands: Sequence[int]) -> list[int]:
    """Bands without a single valid value. Exact; reads on only for bands that have shown none yet, so mostly one block."""
    pending = list(bands)
    for window in _windows(grid, source.block, len(bands)):
        if not pending:
            break
        values = source.read(pending, window)
        pending = [band for band, pixels in zip(pending, values, strict=True) if not np.isfinite(pixels).any()]
    return pending


def _windows(grid: Grid, block: tuple[int, int], count: int) -> Iterator[Window]:
    """Windows of whole file blocks that cover the grid, each within the memory budget if a block is."""
    width = min(grid.width, block[1] * max(1, 256 // block[1]))
    height = block[0] * max(1, _SCAN_VALUES // (count * width * block[0]))
    for row in range(0, grid.height, height):
        for column in range(0, grid.width, width):
            yield Window(column, row, min(width, grid.width - column), min(height, grid.height - row))
