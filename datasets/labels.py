"""Labels of a scene, from rasters, vector files or MATLAB arrays, brought onto the scene's grid."""

import logging
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.warp import Resampling, reproject, transform_bounds
from rasterio.windows import Window

from .classes import MAX_VALUE, ClassInfo, Color, make_classes
from .grid import Grid
from .growing import small_cache
from .matlab import load_array, split_key
from .raster import GDAL_ERRORS, NotARasterError, data_file, grid_of, open_raster, quiet_georeference, reason
from .vector import NotAVectorError, looks_like_vector, rasterize

logger = logging.getLogger(__name__)

_READ_PIXELS = 2**22  # of a raster of labels that are in memory at a time
_SQUARE = 1024  # pixels on a side of what is resampled at a time, at the most
_AROUND = 4  # pixels that are read beyond what a box in another CRS is said to cover, and a hundredth of it
_TOLERANCE_PX = 1e-3


@dataclass(frozen=True, eq=False)
class Labels:
    """Labelled pixels of a scene: these alone, so that memory follows the labels and not the scene.

    Args:
        shape: height and width of the scene.
        pixels: that are labelled, row * width + column, ascending, (pixels,).
        targets: of each the position in ``classes``, (pixels,).
        classes: sorted by value; each has at least one pixel.
    """

    shape: tuple[int, int]
    pixels: NDArray[np.int64]
    targets: NDArray[np.int32]
    classes: tuple[ClassInfo, ...]

    @property
    def index(self) -> NDArray[np.int32]:
        """All of the scene, made anew: (H, W), -1 where unlabelled, else the position in ``classes``."""
        index = np.full(self.shape, -1, dtype=np.int32)
        index.reshape(-1)[self.pixels] = self.targets
        return index

    def counts(self) -> NDArray[np.int64]:
        """Labelled pixels per class."""
        return np.bincount(self.targets, minlength=len(self.classes))


@dataclass(frozen=True)
class _Values:
    """Pixels of a grid with class values (see ``Labels``), and what their file says about the values."""

    pixels: NDArray[np.int64]
    values: NDArray[np.int32]
    names: dict[int, str]
    colors: dict[int, Color]


def read_labels(source: str | Path, grid: Grid, *, field: str | None = None, classes: str | Path | None = None) -> Labels:
    """Read labels onto ``grid``.

    Args:
        source: a single-band raster on the same grid or, with a warning, any other (nearest neighbour); polygons or points in
            a vector file (``file.gpkg:layer`` names one of several layers); a ``.mat`` file (``labels.mat:key``) whose array
            has the scene's shape. 0 and nodata are unlabelled. Values may be any integers in 1..65535.
        grid: the scene's.
        field: attribute of the vector file with the class; needed when several could be it.
        classes: CSV file value,name[,#rrggbb] whose names and colours win over those of the labels.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not readable, values that are no class values, unknown field, another place than the scene, no labelled
            pixel, or no way to tell where the labels lie.
    """
    name = str(source)
    found = _read(name, grid, field)
    present = np.unique(found.values)
    if not len(present):
        raise ValueError(f"{name}: no labelled pixel on the scene")
    targets = np.searchsorted(present, found.values).astype(np.int32)
    return Labels(grid.shape, found.pixels, targets, make_classes(present.tolist(), found.names, found.colors, classes))


def _read(name: str, grid: Grid, field: str | None) -> _Values:
    matlab = split_key(name)
    if matlab is not None:
        return _read_matlab(*matlab, grid)
    if looks_like_vector(name):
        return _Values(*rasterize(name, grid, field), {})
    try:
        with small_cache(), open_raster(data_file(name)) as src:
            return _read_raster(src, grid)
    except NotARasterError:
        try:
            return _Values(*rasterize(name, grid, field), {})
        except NotAVectorError as error:
            raise ValueError(f"{name}: neither a raster nor a vector file that GDAL can open") from error


def _read_matlab(path: str, key: str | None, grid: Grid) -> _Values:
    wanted = f"2-D array of the scene's shape {grid.shape}"
    array = load_array(path, key, wanted=wanted, fits=lambda shape: shape == grid.shape)
    checked = _Checked(path, array.dtype)
    pixels, values = _labelled(checked.values(array, array == 0), 0, 0, grid)
    checked.finish()
    return _Values(pixels, values, {}, {})


def _read_raster(src: DatasetReader, grid: Grid) -> _Values:
    path = src.name
    if src.count != 1:
        raise ValueError(f"{path}: {src.count} bands, expected labels of one band")
    source_grid = grid_of(src)
    placed = True
    if not grid.matches(source_grid):
        _check_overlap(path, source_grid, grid)
        placed = source_grid.crs is None or grid.crs is None
        logger.warning(
            "%s: one of labels and scene has no CRS; their pixels are paired by position"
            if placed
            else "%s: labels on another grid, resampled to the scene's by nearest neighbour",
            path,
        )
    checked = _Checked(path, np.dtype(src.dtypes[0]))
    none = np.zeros(0, np.int64), np.zeros(0, np.int32)
    parts = [none, *(_strips(src, checked, grid) if placed else _resampled(src, checked, source_grid, grid))]
    checked.finish()
    pixels, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(pixels, kind="stable")
    pixels, values = pixels[order], values[order]
    return _Values(pixels, values, _category_names(src), _colors(src, values))


class _Checked:
    """Makes class values of what a file holds, part by part, and counts what is none."""

    def __init__(self, path: str, dtype: np.dtype[Any]) -> None:
        if dtype.kind not in "iufb":
            raise ValueError(f"{path}: data type {dtype}, expected class values")
        self._path = path
        self._wrong, self._example = 0, None

    def values(self, raw: NDArray[Any], unlabelled: NDArray[np.bool_]) -> NDArray[np.int32]:
        """Return class values, 0 where unlabelled or wrong."""
        if raw.dtype.kind == "f":
            unlabelled = unlabelled | np.isnan(raw)
        wrong = ~unlabelled & ((raw < 1) | (raw > MAX_VALUE) | (raw != np.floor(raw)))
        if wrong.any():
            self._example = raw[wrong][0] if self._example is None else self._example
            self._wrong += int(wrong.sum())
        return np.where(unlabelled | wrong, 0, raw).astype(np.int32)

    def finish(self) -> None:
        """Raise a ValueError if anything was wrong."""
        if self._wrong:
            raise ValueError(
                f"{self._path}: {self._wrong} pixels with values such as {self._example}, expected integers in 1..{MAX_VALUE}"
            )


def _labelled(values: NDArray[np.int32], row: int, column: int, grid: Grid) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Pixels with a value of a window that begins at a row and column of a grid, and their values."""
    at = np.nonzero(values)
    return (at[0] + row) * grid.width + at[1] + column, values[at]


def _values_in(src: DatasetReader, checked: _Checked, window: Window) -> NDArray[np.int32]:
    raw = src.read(1, window=window)
    return checked.values(raw, (raw == 0) | (src.read_masks(1, window=window) == 0))


def _strips(src: DatasetReader, checked: _Checked, grid: Grid) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int32]]]:
    """Labelled pixels of a raster of a grid's shape, in order."""
    rows = _READ_PIXELS // src.width
    block = src.block_shapes[0][0]
    rows = max(rows // block * block or rows, 1)
    for row in range(0, src.height, rows):
        window = Window(0, row, src.width, min(rows, src.height - row))
        yield _labelled(_values_in(src, checked, window), row, 0, grid)


def _check_overlap(path: str, source: Grid, grid: Grid) -> None:
    if source.crs is None or grid.crs is None:
        if source.shape == grid.shape:
            return
        lacking = "labels" if source.crs is None else "scene"
        raise ValueError(f"{path}: labels of shape {source.shape} for a scene of {grid.shape}, and no CRS in the {lacking}")
    try:
        box = transform_bounds(source.crs, grid.crs, *source.bounds)
    except GDAL_ERRORS as error:
        raise ValueError(f"{path}: labels in {source.crs} cannot be placed in {grid.crs} ({reason(error)})") from error
    grid.require_overlap(box, path)


def _resampled(
    src: DatasetReader, checked: _Checked, source: Grid, grid: Grid
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int32]]]:
    """Labelled pixels of a grid that a raster elsewhere covers, by nearest neighbour, part by part."""
    pending = [(0, 0, grid.height, grid.width)]
    while pending:
        row, column, height, width = pending.pop()
        part = grid.part(column, row, width, height)
        window, known = _under(part, source)
        if window is None:
            continue
        if height * width > _SQUARE**2 or (known and window.height * window.width > _READ_PIXELS and height * width > 1):
            half, across = max(height, width) // 2, width > height
            pending.append((row, column, height, half) if across else (row, column, half, width))
            pending.append((row, column + half, height, width - half) if across else (row + half, column, height - half, width))
            continue
        values = _values_in(src, checked, window)
        if not values.any():
            continue
        target = np.zeros(part.shape, dtype=np.int32)
        # GDAL's own tolerance, an eighth of a pixel, would let parts show.
        reproject(
            values, target, src_transform=source.part(*window.flatten()).transform, src_crs=source.crs,
            dst_transform=part.transform, dst_crs=grid.crs, src_nodata=0, dst_nodata=0, resampling=Resampling.nearest,
            tolerance=_TOLERANCE_PX,
        )  # fmt: skip
        yield _labelled(target, row, column, grid)


def _under(part: Grid, source: Grid) -> tuple[Window | None, bool]:
    """Window of a raster that holds its pixels at the place of a part of another grid, and whether that place is known.

    It is not around a pole or over the antimeridian: all of the raster is taken then.
    """
    whole = Window(0, 0, source.width, source.height)
    try:
        left, bottom, right, top = transform_bounds(part.crs, source.crs, *part.bounds)
    except GDAL_ERRORS:
        return whole, False
    if not (np.isfinite([left, bottom, right, top]).all() and left < right):
        return whole, False
    ends = source.to_pixel([left, left, right, right], [bottom, top, bottom, top])
    around = _AROUND + np.ptp(ends, axis=1) / 100
    first = np.maximum(np.floor(ends.min(1) - around), 0).astype(int).tolist()
    last = np.minimum(np.ceil(ends.max(1) + around), (source.width, source.height)).astype(int).tolist()
    if first[0] >= last[0] or first[1] >= last[1]:
        return None, True
    return Window(first[0], first[1], last[0] - first[0], last[1] - first[1]), True


def _category_names(src: DatasetReader) -> dict[int, str]:
    # rasterio has no call for category names; a virtual copy in memory spells out what every driver knows of them.
    virtual = f"/vsimem/{uuid.uuid4().hex}.vrt"
    with quiet_georeference():
        rasterio.shutil.copy(src, virtual, driver="VRT")
        with rasterio.open(virtual) as copy:
            text = copy.tags(ns="xml:VRT")["xml:VRT"]
    rasterio.shutil.delete(virtual, driver="VRT")
    # The text is GDAL's own, not the file's.
    names = ET.fromstring(text).findall("./VRTRasterBand[@band='1']/CategoryNames/Category")  # noqa: S314
    return {value: name.text for value, name in enumerate(names) if name.text}


def _colors(src: DatasetReader, values: NDArray[np.int32]) -> dict[int, Color]:
    try:
        table = src.colormap(1)
    except ValueError:  # rasterio's way to say that there is none
        return {}
    return {value: table[value][:3] for value in np.unique(values).tolist() if value in table}
