"""Scenes as xarray's arrays: which axis is which, and what is told of bands and of missing data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from ..datasets.wavelengths import to_nm

if TYPE_CHECKING:
    import xarray

_BAND = ("band", "bands", "channel", "wavelength", "wavelengths")
_Y = ("y", "lat", "latitude", "northing", "row", "rows")
_X = ("x", "lon", "longitude", "easting", "column", "columns")
_NODATA = ("_FillValue", "missing_value", "nodata")


@dataclass(frozen=True)
class Cut:
    """Pixels (bands, height, width) of a rectangle of an array, of which ``row`` and ``column`` are the first."""

    values: NDArray[np.float32]
    row: int
    column: int
    block: tuple[int, int] = (256, 256)

    def read(self, bands: Sequence[int], window: Window | None) -> NDArray[np.float32]:
        """The bands are those that there are."""
        if window is None:
            return self.values
        (top, bottom), (left, right) = window.toranges()
        return self.values[:, top - self.row : bottom - self.row, left - self.column : right - self.column]


def xarray_module() -> Any:
    """Import xarray, which is an extra.

    Raises:
        ValueError: it is missing.
    """
    try:
        import xarray
    except ImportError as error:
        raise ValueError("arrays are xarray's: pip install 'geovit[xarray]'") from error
    return xarray


def nodata_of(array: "xarray.DataArray") -> tuple[float, ...]:
    """Numbers that mean that there is no data, by its attributes."""
    return tuple(float(array.attrs[name]) for name in _NODATA if isinstance(array.attrs.get(name), int | float | np.number))


def without_nodata(values: NDArray[Any], nodata: Sequence[float]) -> NDArray[np.float32]:
    """Return float32 values, NaN where there is no data."""
    numbers = values.astype(np.float32)
    for value in nodata:
        numbers[values == value] = np.nan
    numbers[~np.isfinite(numbers)] = np.nan
    return numbers


def name_of(array: "xarray.DataArray") -> str:
    """Its name, for messages."""
    return str(array.name or "array")


def image_of(array: "xarray.DataArray") -> "tuple[xarray.DataArray, tuple[str, str, str]]":
    """The array as (bands, rows, columns), and the names of these axes; axes of one step beside them go.

    Raises:
        TypeError: no array of xarray.
        ValueError: xarray is missing, axes that cannot be told, or numbers that are not real.
    """
    if not isinstance(array, xarray_module().DataArray):
        raise TypeError(f"scene is a {type(array).__name__}, expected a path or an xarray.DataArray")
    shown = ", ".join(f"{name}: {size}" for name, size in array.sizes.items())
    axes = []
    for what, names in (("bands", _BAND), ("rows", _Y), ("columns", _X)):
        found = [str(name) for name in array.dims if str(name).lower() in names]
        if len(found) != 1:
            raise ValueError(f"{name_of(array)}: axes ({shown}), expected one of {what} named {', '.join(names)}")
        axes += found
    others = [name for name in array.dims if name not in axes]
    if any(array.sizes[name] != 1 for name in others) or 0 in array.shape:
        raise ValueError(f"{name_of(array)}: axes ({shown}), expected bands, rows and columns, and nothing else of several steps")
    if array.dtype.kind not in "iufb":
        raise ValueError(f"{name_of(array)}: data type {array.dtype}, expected real numbers")
    band, y, x = axes
    return array.squeeze(others, drop=True).transpose(band, y, x), (band, y, x)


def bands_of(cube: "xarray.DataArray", axis: str) -> tuple[list[int], NDArray[np.float64] | None]:
    """Positions of the bands that are not bad, by wavelength, and their wavelengths in nm; None if there are none.

    Raises:
        ValueError: wavelengths of an unknown unit.
    """
    kept = np.arange(cube.sizes[axis])
    for name in ("bbl", "good_wavelengths"):
        if name in cube.coords and cube.coords[name].dims == (axis,):
            kept = kept[np.asarray(cube.coords[name].values, dtype=np.float64)[kept] != 0]
    for name in ("wavelength", "wavelengths"):
        if name in cube.coords and cube.coords[name].dims == (axis,):
            coordinate = cube.coords[name]
            unit = coordinate.attrs.get("units", cube.attrs.get("wavelength_units"))
            centres, _ = to_nm(np.asarray(coordinate.values, dtype=np.float64)[kept].tolist(), None, unit, name_of(cube))
            order = np.argsort(centres, kind="stable")
            return kept[order].tolist(), centres[order]
    return kept.tolist(), None
