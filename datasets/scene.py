"""Scenes: one lazy view of every raster format, bands in order of wavelength, NaN for nodata."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window

from .grid import Grid
from .matlab import ArraySource, load_array, split_key
from .raster import BandTags, RasterSource, band_tags, data_file, grid_of, open_raster, require_whole

logger = logging.getLogger(__name__)

_SCAN_VALUES = 2**24  # values read at once when looking for empty bands: 64 MB


class _Source(Protocol):
    @property
    def block(self) -> tuple[int, int]: ...

    def read(self, bands: Sequence[int], window: Window | None) -> NDArray[np.float32]: ...


@dataclass(frozen=True, eq=False)
class Scene:
    """A multi-band image on disk.

    ``bands`` are the 1-based file indices of the bands that ``read`` delivers, in its order: by wavelength where the file has
    wavelengths (stable, so that overlapping detectors keep their file order at equal wavelength), else as in the file.
    ``wavelengths`` and ``fwhm`` (nm, float64) follow the same order and are None where the file does not say: nothing is
    invented. ``dropped`` maps the other file bands to the reason. ``nodata`` is the file's value for band 1, for information:
    ``read`` has replaced it by NaN.
    """

    path: str
    grid: Grid
    bands: tuple[int, ...]
    wavelengths: NDArray[np.float64] | None
    fwhm: NDArray[np.float64] | None
    dropped: dict[int, str]
    nodata: float | None
    _source: _Source

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

    def preview(self, bands: Sequence[int], window: Window, shape: tuple[int, int]) -> NDArray[np.float32]:
        """Return some bands of a window made smaller, (bands, *shape): of each block of pixels the one in the middle.

        Args:
            bands: positions in what ``read`` delivers.
            window: within the scene, read strip by strip.
            shape: rows and columns, no more than the window's.

        Raises:
            ValueError: as in ``read``.
        """
        self._check(window)
        (top, bottom), (left, _) = window.toranges()
        rows, columns = (_middles(size, n) for size, n in zip((window.height, window.width), shape, strict=True))
        chosen = [self.bands[band] for band in bands]
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


def open_scene(source: str | Path) -> Scene:
    """Open a GeoTIFF, COG, VRT or other GDAL raster, an ENVI data file or its ``.hdr``, or a MATLAB file.

    Of a ``.mat`` file the only 3-D numeric array (rows, columns, bands) is taken; ``scene.mat:key`` names one of several.
    Bands are dropped that the file's bad-band list marks (``bbl``, 0 = bad), that hold no valid value, or that are alpha.
    If only some of the kept bands have a wavelength, the scene counts as one without wavelengths, with a warning.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a raster, damaged, complex values, no band, or no valid value at all.
    """
    name = str(source)
    matlab = split_key(name)
    if matlab is not None:
        return _open_matlab(name, *matlab)
    path = data_file(name)
    with open_raster(path) as src:
        if src.count == 0:
            parts = ", ".join(src.subdatasets[:8])
            raise ValueError(f"{path}: no raster bands" + (f"; it holds {parts}: name one" if parts else ""))
        if any(dtype.startswith("complex") for dtype in src.dtypes):
            raise ValueError(f"{path}: data type {src.dtypes[0]}, expected real numbers")
        require_whole(src)
        return _select(path, grid_of(src), band_tags(src), src.nodata, RasterSource.of(path, src), src.count)


def _open_matlab(name: str, path: str, key: str | None) -> Scene:
    array = load_array(
        path, key, wanted="3-D array (rows, columns, bands)", fits=lambda shape: len(shape) == 3 and 0 not in shape
    )
    height, width, count = array.shape
    return _select(
        name, Grid(height, width, None, Affine.identity()), BandTags(None, None, None), None, ArraySource(array), count
    )


def _select(path: str, grid: Grid, tags: BandTags, nodata: float | None, source: _Source, count: int) -> Scene:
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
    return Scene(path, grid, tuple(bands.tolist()), wavelengths, fwhm, dict(sorted(dropped.items())), nodata, source)


def _empty_bands(source: _Source, grid: Grid, bands: Sequence[int]) -> list[int]:
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
