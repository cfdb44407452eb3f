"""Mosaics: many files of one grid, read as if they were one."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window

from .band_tags import BandTags, band_tags
from .grid import Grid
from .handles import Handles
from .raster import data_file, grid_of, open_raster, require_real, require_whole
from .raster_source import Numbers, RasterSource, gdal_numbers
from .scene import Scene, scene_of

_SHIFT_PX = 0.01  # by which grids may differ from whole pixels: coordinates in files are rounded
_NEAR_NM = 0.5  # by which wavelengths may differ: headers are rounded
_OPEN = 8  # files that stay open between reads


@dataclass(frozen=True, eq=False)
class MosaicSource:
    """Pixels of many files. Where files overlap, a band's value is that of the first file in order that has one there.

    Args:
        files: in order.
        places: (files, 4): first row and column, and those behind the last, of each file in the mosaic.
        shape: height and width of the mosaic.
        block: of the first file.
    """

    files: tuple[RasterSource, ...]
    places: NDArray[np.int64]
    shape: tuple[int, int]
    block: tuple[int, int]

    def read(self, bands: Sequence[int], window: Window | None) -> NDArray[np.float32]:
        """Bands (1-based, in the given order) as (C, h, w) float32, NaN where no file has a value."""
        window = Window(0, 0, self.shape[1], self.shape[0]) if window is None else window
        (top, bottom), (left, right) = window.toranges()
        values = np.full((len(bands), bottom - top, right - left), np.nan, dtype=np.float32)
        first, last = self.places[:, :2], self.places[:, 2:]
        for at in np.flatnonzero(((first < (bottom, right)) & (last > (top, left))).all(axis=1)).tolist():
            (row, column), (end, stop) = first[at].tolist(), last[at].tolist()
            rows, columns = (max(row, top), min(end, bottom)), (max(column, left), min(stop, right))
            into = values[:, rows[0] - top : rows[1] - top, columns[0] - left : columns[1] - left]
            missing = np.isnan(into)
            if missing.any():
                own = Window(columns[0] - column, rows[0] - row, columns[1] - columns[0], rows[1] - rows[0])
                np.copyto(into, self.files[at].read(bands, own), where=missing)
        return values


@dataclass
class _Agreed:
    """What the first file says, and what all others must agree with."""

    path: str
    grid: Grid
    count: int
    tags: BandTags
    numbers: Numbers
    nodata: float | None
    block: tuple[int, int]
    handles: Handles = field(default_factory=lambda: Handles(_OPEN))

    def place(self, path: str, grid: Grid) -> tuple[int, int, int, int]:
        """Rows and columns of a file, counted from the first one's corner."""
        if grid.crs != self.grid.crs:
            crs = [found.to_string() if found else "none" for found in (grid.crs, self.grid.crs)]
            raise ValueError(f"{path}: CRS {crs[0]}, that of {self.path} is {crs[1]}: files of a mosaic must have one CRS")
        ours, theirs = ((t.a, t.b, t.d, t.e) for t in (self.grid.transform, grid.transform))
        # Over the whole file, pixels must not drift apart by more than is allowed.
        drift = max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) * max(grid.shape)
        if drift > _SHIFT_PX * max(map(abs, ours)):
            raise ValueError(
                f"{path}: pixels of {_size(grid)}, those of {self.path} are {_size(self.grid)}: files of a mosaic must have one"
                " grid (bands of different resolution are joined by +)"
            )
        column, row = self.grid.to_pixel(grid.transform.c, grid.transform.f).tolist()
        off = max(abs(column - round(column)), abs(row - round(row)))
        if off > _SHIFT_PX:
            raise ValueError(
                f"{path}: lies {off:.2g} pixels beside the grid of {self.path}: files of a mosaic must have one grid"
            )
        return round(row), round(column), round(row) + grid.height, round(column) + grid.width

    def check(self, path: str, count: int, tags: BandTags, numbers: Numbers) -> None:
        """Raise a ValueError if bands or numbers of a file are others."""
        differing = f"that of {self.path} is"
        if count != self.count:
            raise ValueError(f"{path}: {count} bands, {self.path} has {self.count}: files of a mosaic must have the same bands")
        if numbers.dtype != self.numbers.dtype:
            raise ValueError(f"{path}: data type {numbers.dtype}, {differing} {self.numbers.dtype}")
        if numbers.scalings != self.numbers.scalings:
            raise ValueError(f"{path}: scale and offset {numbers.scalings}, {differing} {self.numbers.scalings}")
        if tags.alpha != self.tags.alpha:
            raise ValueError(f"{path}: its alpha bands are {list(tags.alpha)}, those of {self.path} {list(self.tags.alpha)}")
        mine, own = tags.wavelengths, self.tags.wavelengths
        if (mine is None) != (own is None):
            raise ValueError(
                f"{path}: only one of it and {self.path} has wavelengths: files of a mosaic must have the same bands"
            )
        if mine is not None and own is not None:
            off = np.abs(mine - own)
            if (off > _NEAR_NM).any() or (np.isnan(mine) != np.isnan(own)).any():
                at = int(np.argmax(np.where(np.isnan(off), np.inf, off)))
                raise ValueError(f"{path}: band {at + 1} at {mine[at]:g} nm, in {self.path} at {own[at]:g} nm")


def _size(grid: Grid) -> str:
    return f"{np.hypot(grid.transform.a, grid.transform.d):g} x {np.hypot(grid.transform.b, grid.transform.e):g}"


def open_mosaic(name: str, paths: Sequence[str]) -> Scene:
    """Open files that GDAL reads as one scene. Memory and open files do not depend on how many there are, footprints apart.

    All must have one CRS and grid, the same bands, wavelengths, data type, scale and offset; nodata and masks are each file's
    own. Where files overlap, each band of a pixel is taken from the first file in order that has a value there: later files
    fill what earlier ones leave. A band is bad if any file calls it bad.

    Raises:
        FileNotFoundError: no files, or one is missing.
        ValueError: a file is no raster or damaged, or files do not agree.
    """
    if not paths:
        raise FileNotFoundError(f"{name}: no such files")
    agreed: _Agreed | None = None
    files, places, good = [], [], None
    for path in map(data_file, paths):
        with open_raster(path) as src:
            require_real(path, src)
            require_whole(src)
            grid, tags = grid_of(src), band_tags(src)
            if not grid.georeferenced:
                raise ValueError(f"{path}: not georeferenced, which files of a mosaic must be")
            if agreed is None:
                numbers = gdal_numbers(src, RasterSource.of(path, src))
                agreed = _Agreed(path, grid, src.count, tags, numbers, src.nodata, src.block_shapes[0])
            source = RasterSource.of(path, src, agreed.handles)
            places.append(agreed.place(path, grid))
            agreed.check(path, src.count, tags, gdal_numbers(src, source))
            files.append(source)
            if tags.good is not None:
                good = tags.good if good is None else good & tags.good
    assert agreed is not None
    corners = np.array(places, dtype=np.int64)
    origin = corners[:, :2].min(axis=0)
    corners -= np.tile(origin, 2)
    height, width = corners[:, 2:].max(axis=0).tolist()
    (x, y), t = agreed.grid.to_map(int(origin[1]), int(origin[0])).tolist(), agreed.grid.transform
    grid = Grid(height, width, agreed.grid.crs, Affine(t.a, t.b, x, t.d, t.e, y))
    source_of_all = MosaicSource(tuple(files), corners, grid.shape, agreed.block)
    tags = BandTags(agreed.tags.wavelengths, agreed.tags.fwhm, good, agreed.tags.alpha)
    marked = Numbers(agreed.numbers.dtype, True, agreed.numbers.scalings, agreed.numbers.tags)
    return scene_of(name, grid, tags, source_of_all, agreed.count, nodata=agreed.nodata, numbers=marked)
