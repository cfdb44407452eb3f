"""Bands of one place from several files, of different pixel sizes if need be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from .band_tags import BandTags, band_tags
from .grid import Grid
from .handles import Handles
from .raster import data_file, grid_of, open_raster, require_real, require_whole
from .raster_source import Numbers, RasterSource, gdal_numbers
from .scene import BandSource, Scene, scene_of

_EDGE_PX = 1e-6  # pixel centres that lie on an edge but for rounding belong to the pixel behind it
_OPEN = 16  # files that stay open between reads


@dataclass(frozen=True, eq=False)
class Piece:
    """Bands of one file in a stack.

    Args:
        source: what they are read from.
        numbers: of its bands, counted from 1, in the order of the stack.
        grid: of the file.
        nodata: a number for no data beside what the file itself says, where only a catalogue tells it.
    """

    source: BandSource
    numbers: tuple[int, ...]
    grid: Grid
    nodata: float | None = None

    def read(self, bands: Sequence[int], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float32]:
        """Bands at some rows and columns of the file, NaN where they lie outside."""
        values = np.full((len(bands), len(rows), len(columns)), np.nan, dtype=np.float32)
        inside = [np.flatnonzero((at >= 0) & (at < size)) for at, size in zip((rows, columns), self.grid.shape, strict=True)]
        if not all(map(len, inside)):
            return values
        (top, bottom), (left, right) = ((at[i].min(), at[i].max() + 1) for at, i in zip((rows, columns), inside, strict=True))
        window = Window(int(left), int(top), int(right - left), int(bottom - top))
        found = self.source.read(bands, window)
        if self.nodata is not None:
            found[found == np.float32(self.nodata)] = np.nan
        values[:, inside[0][:, None], inside[1]] = found[:, rows[inside[0]][:, None] - top, columns[inside[1]] - left]
        return values


@dataclass(frozen=True, eq=False)
class StackSource:
    """Bands of several files on one grid. A pixel has the value of the file's pixel that its centre lies in.

    Nearest neighbours, because values are not mixed then: nothing bleeds from invalid pixels, or over edges that finer bands
    show, and what a window gives is what the same pixels of the whole give.
    """

    pieces: tuple[Piece, ...]
    grid: Grid
    block: tuple[int, int]

    def read(self, bands: Sequence[int], window: Window | None) -> NDArray[np.float32]:
        """Bands (counted from 1 over all files) as (C, h, w) float32, NaN where there is no data."""
        window = Window(0, 0, self.grid.width, self.grid.height) if window is None else window
        (top, bottom), (left, right) = window.toranges()
        values = np.empty((len(bands), bottom - top, right - left), dtype=np.float32)
        starts = np.cumsum([0, *(len(piece.numbers) for piece in self.pieces)])
        wanted = np.asarray(bands) - 1
        for piece, (first, last) in zip(self.pieces, pairwise(starts.tolist()), strict=True):
            at = np.flatnonzero((wanted >= first) & (wanted < last))
            if len(at):
                numbers = [piece.numbers[i - first] for i in wanted[at]]
                values[at] = piece.read(numbers, *self._pixels(piece.grid, (top, bottom), (left, right)))
        return values

    def _pixels(self, grid: Grid, rows: tuple[int, int], columns: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows and columns of a file that the centres of rows and columns of the stack lie in, each for itself."""
        ys, xs = np.arange(*rows) + 0.5, np.arange(*columns) + 0.5
        down = grid.to_pixel(*self.grid.to_map(0.5, ys))[1]
        across = grid.to_pixel(*self.grid.to_map(xs, 0.5))[0]
        return np.floor(down + _EDGE_PX).astype(np.int64), np.floor(across + _EDGE_PX).astype(np.int64)


def stack_grid(name: str, grids: dict[str, Grid]) -> Grid:
    """Return the finest of some grids, once it is sure that all show the same ground.

    Raises:
        ValueError: they do not.
    """
    finest = min(grids, key=lambda path: abs(grids[path].transform.determinant))
    grid = grids[finest]
    for path, other in grids.items():
        if other.crs != grid.crs:
            crs = [found.to_string() if found else "none" for found in (other.crs, grid.crs)]
            raise ValueError(f"{path}: CRS {crs[0]}, that of {finest} is {crs[1]}: bands of one scene must have one CRS")
        corners = np.array([[0, grid.width, 0, grid.width], [0, 0, grid.height, grid.height]])
        if not (grid.georeferenced and other.georeferenced):
            if other.shape != grid.shape:
                raise ValueError(f"{path}: {other.shape} pixels, {finest} has {grid.shape}, and not both are georeferenced")
            continue
        across = grid.to_pixel(*other.to_map([0, 1, 0], [0, 0, 1]))
        if abs(across[1, 1] - across[1, 0]) > 1e-6 or abs(across[0, 2] - across[0, 0]) > 1e-6:
            raise ValueError(f"{path}: turned against {finest}: bands of one scene must have parallel grids")
        theirs = np.array([[0, other.width, 0, other.width], [0, 0, other.height, other.height]])
        off = float(np.abs(other.to_pixel(*grid.to_map(*corners)) - theirs).max())
        if off > 1:
            raise ValueError(
                f"{path}: its corners lie up to {off:.3g} of its pixels from those of {finest}: not the same ground ({name})"
            )
    return grid


def open_stack(name: str, paths: Sequence[str], nodata: Mapping[str, float | None] | None = None) -> Scene:
    """Open files that GDAL reads as bands of one scene, on the grid of the finest; coarser pixels are repeated.

    Args:
        name: of the scene.
        paths: the files.
        nodata: of files that do not tell it themselves.

    Raises:
        FileNotFoundError: no files, or one is missing.
        ValueError: a file is no raster or damaged, or files do not show the same ground.
    """
    if not paths:
        raise FileNotFoundError(f"{name}: no such files")
    handles, pieces, grids, found, numbers = Handles(_OPEN), [], {}, [], []
    for given in paths:
        path = data_file(given)
        with open_raster(path) as src:
            require_real(path, src)
            require_whole(src)
            source = RasterSource.of(path, src, handles)
            grids[path] = grid_of(src)
            pieces.append(
                Piece(source, tuple(src.indexes), grids[path], (nodata or {}).get(given) if src.nodata is None else None)
            )
            found.append(band_tags(src))
            own = gdal_numbers(src, source)
            numbers.append(replace(own, marked=own.marked or pieces[-1].nodata is not None))
    grid = stack_grid(name, grids)
    counts = [len(piece.numbers) for piece in pieces]
    starts = np.cumsum([0, *counts]).tolist()
    alpha = tuple(start + band for start, tags in zip(starts, found, strict=False) for band in tags.alpha)
    tags = BandTags(
        _joined([tags.wavelengths for tags in found], counts), _joined([tags.fwhm for tags in found], counts),
        np.concatenate([np.ones(n, np.bool_) if t.good is None else t.good for t, n in zip(found, counts, strict=True)]), alpha,
    )  # fmt: skip
    block = next(piece.source.block for piece in pieces if piece.grid is grid)
    told = Numbers(
        np.result_type(*(each.dtype for each in numbers)),
        all(each.marked for each in numbers),
        tuple(dict.fromkeys(pair for each in numbers for pair in each.scalings)),
        {key: value for each in reversed(numbers) for key, value in each.tags.items()},
    )
    source_of_all = StackSource(tuple(pieces), grid, block)
    return scene_of(name, grid, tags, source_of_all, sum(counts), nodata=None, numbers=told)


def _joined(columns: Sequence[NDArray[np.float64] | None], counts: Sequence[int]) -> NDArray[np.float64] | None:
    if all(column is None for column in columns):
        return None
    return np.concatenate([np.full(n, np.nan) if column is None else column for column, n in zip(columns, counts, strict=True)])
