"""NetCDF 4 and other HDF5 files by the conventions for climate and forecast metadata (CF 1.11).

A cube is a variable of three dimensions that have names (HDF5 dimension scales, as NetCDF 4 writes them): two of the map and one
of bands. Coordinates are the centres of pixels, so that the corner of the grid is half a pixel further out. Numbers stay as the
file holds them; ``scale_factor`` and ``add_offset`` become information of the scene.
"""

import logging
from collections.abc import Sequence
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
from ..hdf5 import (
    HdfFile,
    column,
    datasets,
    find,
    hdf_errors,
    is_hdf5,
    load_h5py,
    looks,
    masked,
    number,
    numbers,
    require_own,
    text,
)
from ..raster_source import Numbers
from ..scene import Scene, scene_of
from ..wavelengths import is_length, to_nm
from .paths import split_variable

logger = logging.getLogger(__name__)

_X, _Y = "x", "y"
_STANDARD = {
    "projection_x_coordinate": _X, "longitude": _X, "grid_longitude": _X,
    "projection_y_coordinate": _Y, "latitude": _Y, "grid_latitude": _Y,
}  # fmt: skip
_DEGREES = {"degrees_east": _X, "degree_east": _X, "degrees_north": _Y, "degree_north": _Y}
_NAMES = {_X: ("x", "lon", "longitude", "easting"), _Y: ("y", "lat", "latitude", "northing")}
_SPECTRAL = ("radiation_wavelength", "sensor_band_central_radiation_wavelength")
_WAVELENGTHS, _WIDTHS, _GOOD = ("wavelength", "wavelengths"), ("fwhm",), ("good_wavelengths", "good_bands", "bbl")
# Coordinates in single precision are off by 3 % of a pixel of 30 m in degrees; what is further off lies on no regular grid.
_IRREGULAR = 0.1
_LONGEST = 10_000_000  # coordinates along one axis


def is_netcdf(source: str) -> bool:
    """Whether a file holds a cube as these conventions describe it, or is HDF5 that cannot be read; or a variable is named."""
    path, variable = split_variable(source)
    if variable is not None:
        return is_hdf5(path)
    found = looks(path, lambda root: any(_axes(dataset) is not None for dataset in datasets(root).values()))
    return found is None or found  # what is damaged is told when it is opened


def open_netcdf(source: str) -> Scene:
    """Open the only cube of a NetCDF 4 or HDF5 file, or the variable that ``file.nc:variable`` names.

    Where coordinates do not lie on a regular grid, or are tables of latitude and longitude, the scene has no map coordinates,
    which a warning says.

    Raises:
        ValueError: damaged, no such variable, several that would do, or dimensions of which it cannot be told which are bands.
    """
    path, variable = split_variable(source)
    file = HdfFile(path)
    try:
        with hdf_errors(path):
            root = file.root()
            name = _variable(path, root, variable)
            cube = find(root, name)
            axes = None if cube is None else _axes(cube)
            if cube is None or axes is None:
                raise ValueError(f"{path}: {name} is not a cube of real numbers over x, y and bands")
            require_own(cube, path)
            spectral = axes.dims[axes.band]
            count = int(cube.shape[axes.band])
            tags = _tags(path, cube, spectral, count)
            grid = _grid(path, cube, axes)
            fills = tuple(fill for key in ("_FillValue", "missing_value") if (fill := number(cube, key)) is not None)
            scale, offset = number(cube, "scale_factor"), number(cube, "add_offset")
            pair = (1.0 if scale is None else scale, 0.0 if offset is None else offset)
            told = Numbers(cube.dtype, bool(fills), () if scale is None and offset is None else (pair,), {"variable": name})
            chunks = cube.chunks or (1, *cube.shape[1:])
            block = (min(int(chunks[axes.row]), grid.height), min(int(chunks[axes.column]), grid.width))
        pixels = _Variable(file, name, (axes.band, axes.row, axes.column), fills, grid.shape, block)
        nodata = fills[0] if fills else None
        return scene_of(source, grid, tags, pixels, count, nodata=nodata, numbers=told)
    finally:
        file.close()


def _variable(path: str, root: Any, variable: str | None) -> str:
    if variable is not None:
        if find(root, variable) is None:
            raise ValueError(f"{path}: no variable {variable} of real numbers; it holds {_listing(datasets(root))}")
        return variable.strip("/")
    found = datasets(root)
    fitting = [name for name, dataset in found.items() if _axes(dataset) is not None]
    if len(fitting) != 1:
        what = f"several cubes, {_listing({name: found[name] for name in fitting})}" if fitting else f"no cube; {_listing(found)}"
        raise ValueError(f"{path}: {what}" + (f": name one, as {path}:{fitting[0]}" if fitting else ""))
    return fitting[0]


def _listing(found: dict[str, Any]) -> str:
    return ", ".join(f"{name} {tuple(dataset.shape)}" for name, dataset in list(found.items())[:8]) or "nothing"


@dataclass(frozen=True)
class _Axes:
    dims: tuple[tuple[str, Any], ...]  # name and scale of each dimension; a scale that is no coordinate has no values
    band: int
    row: int
    column: int


def _axes(dataset: Any) -> _Axes | None:
    """Which dimension is which; None if the dataset is no cube or its dimensions do not tell."""
    if dataset.ndim != 3 or 0 in dataset.shape:
        return None
    dims = []
    for axis in range(3):
        scales = dataset.dims[axis]
        if len(scales) != 1:
            return None
        dims.append((scales[0].name.rsplit("/", 1)[-1], scales[0]))
    kinds = [_kind(name, scale) for name, scale in dims]
    if kinds.count(_X) != 1 or kinds.count(_Y) != 1:
        return None
    row, column_ = kinds.index(_Y), kinds.index(_X)
    return _Axes(tuple(dims), 3 - row - column_, row, column_)


def _kind(name: str, scale: Any) -> str | None:
    told = _STANDARD.get(text(scale, "standard_name") or "", _DEGREES.get(text(scale, "units") or ""))
    if told is None:
        told = {"X": _X, "Y": _Y}.get(text(scale, "axis") or "")
    return told or next((kind for kind, names in _NAMES.items() if name.lower() in names), None)


def _tags(path: str, cube: Any, spectral: tuple[str, Any], count: int) -> BandTags:
    """Wavelengths: the coordinate of the bands, or a variable along them that is named so."""
    along = {}
    for at, node in datasets(cube.parent).items():
        if "/" in at or node.shape != (count,):
            continue
        if at == spectral[0] or any(scale.id == spectral[1].id for scale in node.dims[0].values()):
            along[at] = node
    centres = next((node for name, node in along.items() if _spectral(name, node)), None)
    if centres is None:
        return BandTags(None, None, _flags(along, count))
    require_own(centres, path)
    unit = text(centres, "units")
    values = column(centres, count)
    if not (values > 0).any():
        return BandTags(None, None, _flags(along, count))
    widths = next((node for name, node in along.items() if name.lower() in _WIDTHS), None)
    nm, _ = to_nm(values.tolist(), None, unit, path)
    fwhm = None
    if widths is not None:
        _, fwhm = to_nm(values.tolist(), column(widths, count).tolist(), text(widths, "units") or unit, path)
    return BandTags(nm, fwhm, _flags(along, count))


def _spectral(name: str, node: Any) -> bool:
    """Whether a variable along the bands tells wavelengths: by its standard name, its unit, or its own name."""
    unit = text(node, "units")
    if name.lower() in (*_WIDTHS, *_GOOD):
        return False
    if text(node, "standard_name") in _SPECTRAL:
        return True
    return is_length(unit) if unit is not None else name.lower() in _WAVELENGTHS


def _flags(along: dict[str, Any], count: int) -> NDArray[np.bool_] | None:
    flags = next((node for name, node in along.items() if name.lower() in _GOOD), None)
    return None if flags is None else column(flags, count) != 0


def _grid(path: str, cube: Any, axes: _Axes) -> Grid:
    height, width = int(cube.shape[axes.row]), int(cube.shape[axes.column])
    mapping = _mapping(cube)
    crs = _crs(path, mapping, axes)
    across, down = (_spacing(axes.dims[axis], crs) for axis in (axes.column, axes.row))
    told = None if mapping is None else numbers(mapping, "GeoTransform")
    transform = None
    if across is not None and down is not None:
        (left, width_px), (top, height_px) = across, down
        transform = Affine(width_px, 0.0, left - width_px / 2, 0.0, height_px, top - height_px / 2)
    elif told is not None and len(told) == 6 and np.isfinite(told).all() and told[1] * told[5] != told[2] * told[4]:
        transform = Affine.from_gdal(*told.tolist())
    if transform is None:
        logger.warning("%s: its coordinates lie on no regular grid: the scene has no map coordinates", path)
        return Grid(height, width, None, Affine.identity())
    return Grid(height, width, crs, transform)


def _mapping(cube: Any) -> Any | None:
    """The variable that describes the projection: the cube names it, in its own group or above."""
    name = (text(cube, "grid_mapping") or "").split(":")[0].strip()
    h5py = load_h5py()
    group = cube.parent
    while name and "/" not in name:
        node = group.get(name) if isinstance(group.get(name, getlink=True), h5py.HardLink) else None
        if isinstance(node, h5py.Dataset | h5py.Group):
            return node
        if group.name == "/":
            break
        group = group.parent
    return None


def _crs(path: str, mapping: Any | None, axes: _Axes) -> CRS | None:
    if mapping is not None:
        for key in ("crs_wkt", "spatial_ref", "epsg_code"):
            told = text(mapping, key)
            if not told:
                continue
            try:
                return CRS.from_wkt(told) if key != "epsg_code" else CRS.from_user_input(told)
            except CRSError as error:
                raise ValueError(f"{path}: {key} of {mapping.name} is no coordinate reference system: {told[:60]!r}") from error
    units = [text(axes.dims[axis][1], "units") in _DEGREES for axis in (axes.row, axes.column)]
    named = None if mapping is None else text(mapping, "grid_mapping_name")
    if all(units) and named in (None, "latitude_longitude"):
        logger.warning("%s: latitude and longitude without a datum, taken as WGS 84", path)
        return CRS.from_epsg(4326)
    logger.warning("%s: no coordinate reference system%s", path, f" (only the parameters of {named})" if named else "")
    return None


def _spacing(dim: tuple[str, Any], crs: CRS | None) -> tuple[float, float] | None:
    """The first coordinate and the step; None where there are no coordinates or they are not regular."""
    _, scale = dim
    label = text(scale, "NAME") or ""
    if (
        label.startswith("This is a netCDF dimension but not a netCDF variable")
        or scale.dtype.kind not in "iuf"
        or scale.ndim != 1
    ):
        return None
    count = int(scale.shape[0])
    if not 2 <= count <= _LONGEST:
        return None
    values = np.asarray(scale[()], dtype=np.float64)
    step = (values[-1] - values[0]) / (count - 1)
    if (
        not np.isfinite(values).all()
        or step == 0
        or np.abs(values - values[0] - step * np.arange(count)).max() > _IRREGULAR * abs(step)
    ):
        return None
    factor = 1000.0 if text(scale, "units") in ("km", "kilometer", "kilometre") and crs is not None and crs.is_projected else 1.0
    return float(values[0]) * factor, float(step) * factor


@dataclass(frozen=True, eq=False)
class _Variable:
    file: HdfFile
    name: str
    order: tuple[int, int, int]  # where band, row and column lie
    fills: tuple[float, ...]
    shape: tuple[int, int]
    block: tuple[int, int]

    def read(self, bands: Sequence[int], window: Window | None) -> NDArray[np.float32]:
        rows, columns = (slice(0, self.shape[0]), slice(0, self.shape[1])) if window is None else window.toslices()
        wanted = np.asarray(bands) - 1
        at: list[slice] = [slice(None)] * 3
        for axis, part in zip(self.order, (slice(int(wanted.min()), int(wanted.max()) + 1), rows, columns), strict=True):
            at[axis] = part
        with hdf_errors(self.file.path):
            cube = np.asarray(self.file.dataset(self.name)[tuple(at)]).transpose(self.order)
        return masked(cube[wanted - wanted.min()], self.fills)
