"""EMIT products of NASA in NetCDF 4, put on the map through their geometry lookup table (GLT).

Layout: NASA LP DAAC, EMIT L2A user guide. ``reflectance`` is (downtrack, crosstrack, bands) in the geometry of the sensor;
``location/glt_x`` and ``glt_y`` tell for each pixel of the map which crosstrack and downtrack it shows, counted from 1, 0 for
none; the attributes ``geotransform`` and ``spatial_ref`` tell where the map lies.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.windows import Window

from ..band_tags import BandTags
from ..grid import Grid
from ..hdf5 import HdfFile, column, find, has, hdf_errors, looks, masked, number, numbers, text
from ..raster_source import Numbers
from ..scene import Scene, scene_of
from ..wavelengths import to_nm
from .paths import split_variable

_FILL = -9999.0
# Pixels of the map that are looked up at once. The swath lies askew, so a wide window would need all the lines that it crosses.
_SIDE = 128


def is_emit(source: str) -> bool:
    """Whether a file has EMIT's groups."""
    path, _ = split_variable(source)
    marks = ("sensor_band_parameters/wavelengths", "location/glt_x")
    return bool(looks(path, lambda root: all(has(root, mark) for mark in marks)))


def open_emit(source: str) -> Scene:
    """Open an EMIT product on the map grid of its GLT; ``file.nc:variable`` names one of several cubes.

    Bands that ``good_wavelengths`` marks are dropped. Each window reads the part of the swath that it shows and no more.

    Raises:
        ValueError: damaged, or not laid out as the user guide says; a GLT that points outside the swath is found when read.
    """
    path, variable = split_variable(source)
    file = HdfFile(path)
    try:
        with hdf_errors(path):
            root = file.root()
            centres = find(root, "sensor_band_parameters/wavelengths")
            count = 0 if centres is None else int(centres.size)
            name = _cube(path, root, variable, count)
            cube, x, y = (file.dataset(key) for key in (name, "location/glt_x", "location/glt_y"))
            if x.shape != y.shape or x.ndim != 2 or 0 in x.shape:
                raise ValueError(f"{path}: location/glt_x and glt_y are not two tables of one size")
            tags = _tags(path, root, centres, count)
            grid = _grid(path, root, x.shape)
            fill = number(cube, "_FillValue")
            numbers_ = Numbers(cube.dtype, True, (), {"product": f"EMIT {name}"})
            pixels = _Orthorectified(file, name, (fill if fill is not None else _FILL,), grid.shape)
        return scene_of(source, grid, tags, pixels, count, nodata=pixels.fills[0], numbers=numbers_)
    finally:
        file.close()


def _cube(path: str, root: Any, variable: str | None, count: int) -> str:
    """The cube that is named, or the only one of as many bands as there are wavelengths."""
    fitting = [name for name in root if (cube := find(root, name)) is not None and cube.ndim == 3 and cube.shape[2] == count > 0]
    listing = ", ".join(fitting) or f"none has {count} bands as last of three dimensions"
    if variable is not None and variable.strip("/") not in fitting:
        raise ValueError(f"{path}: no cube {variable}; {listing if not fitting else 'it holds ' + listing}")
    if variable is None and len(fitting) != 1:
        raise ValueError(
            f"{path}: {'several cubes: ' if fitting else 'no cube: '}{listing}"
            + (f"; name one, as {path}:{fitting[0]}" if fitting else "")
        )
    return variable.strip("/") if variable is not None else fitting[0]


def _tags(path: str, root: Any, centres: Any, count: int) -> BandTags:
    group = "sensor_band_parameters"
    widths, good = (find(root, f"{group}/{name}") for name in ("fwhm", "good_wavelengths"))
    nm, fwhm = to_nm(
        column(centres, count).tolist(), None if widths is None else column(widths, count).tolist(), text(centres, "units"), path
    )
    return BandTags(nm, fwhm, None if good is None else column(good, count) != 0)


def _grid(path: str, root: Any, shape: tuple[int, int]) -> Grid:
    told, wkt = numbers(root, "geotransform"), text(root, "spatial_ref")
    if told is None or len(told) != 6 or not np.isfinite(told).all() or told[1] * told[5] == told[2] * told[4]:
        raise ValueError(f"{path}: attribute geotransform is {told}, expected six numbers that place a grid")
    try:
        crs = CRS.from_wkt(wkt or "")
    except CRSError as error:
        raise ValueError(f"{path}: attribute spatial_ref is no coordinate reference system: {(wkt or '')[:60]!r}") from error
    return Grid(int(shape[0]), int(shape[1]), crs, Affine.from_gdal(*told.tolist()))


@dataclass(frozen=True, eq=False)
class _Orthorectified:
    file: HdfFile
    name: str
    fills: tuple[float, ...]
    shape: tuple[int, int]

    @property
    def block(self) -> tuple[int, int]:
        return _SIDE, _SIDE

    def read(self, bands: Sequence[int], window: Window | None) -> NDArray[np.float32]:
        window = window or Window(0, 0, self.shape[1], self.shape[0])
        top, left = int(window.row_off), int(window.col_off)
        values = np.full((len(bands), int(window.height), int(window.width)), np.nan, dtype=np.float32)
        with hdf_errors(self.file.path):
            for rows, columns in _squares(window):
                part = self._square(np.asarray(bands) - 1, rows, columns)
                if part is not None:
                    values[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = part
        return values

    def _square(self, bands: NDArray[np.intp], rows: slice, columns: slice) -> NDArray[np.float32] | None:
        """Pixels of a square of the map, None if it shows no pixel of the swath."""
        cube = self.file.dataset(self.name)
        line, sample = (
            np.asarray(self.file.dataset(f"location/glt_{axis}")[rows, columns]).astype(np.int64) for axis in ("y", "x")
        )
        shown = (line != 0) & (sample != 0)
        if not shown.any():
            return None
        line, sample = line[shown] - 1, sample[shown] - 1  # counted from 1
        if line.min() < 0 or sample.min() < 0 or line.max() >= cube.shape[0] or sample.max() >= cube.shape[1]:
            raise ValueError(f"{self.file.path}: the GLT points outside the swath of {cube.shape[0]} x {cube.shape[1]} pixels")
        # Lines in bands of the square's own height, so that a table that jumps about cannot ask for the whole swath at once.
        values = np.full((*shown.shape, len(bands)), np.nan, dtype=np.float32)
        picked = np.empty((len(line), len(bands)), dtype=np.float32)
        low, high = int(sample.min()), int(sample.max()) + 1
        lowest, highest = int(bands.min()), int(bands.max()) + 1
        for start in range(int(line.min()), int(line.max()) + 1, _SIDE):
            here = (line >= start) & (line < start + _SIDE)
            if here.any():
                stop = int(line[here].max()) + 1
                swath = np.asarray(cube[start:stop, low:high, lowest:highest])
                picked[here] = masked(swath[line[here] - start, sample[here] - low][:, bands - lowest], self.fills)
        values[shown] = picked
        return np.moveaxis(values, -1, 0)


def _squares(window: Window) -> Iterator[tuple[slice, slice]]:
    rows, columns = window.toslices()
    for top in range(rows.start, rows.stop, _SIDE):
        for left in range(columns.start, columns.stop, _SIDE):
            yield slice(top, min(top + _SIDE, rows.stop)), slice(left, min(left + _SIDE, columns.stop))
