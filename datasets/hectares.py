"""Areas of pixels on the ground."""

import re

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.warp import transform

from .grid import Grid
from .raster import GDAL_ERRORS

_SQUARE_METRES = 1e4  # of a hectare
_ROTATED = 1e-9
_OFF = 0.01  # by which areas on a map may differ from those on the ellipsoid
_LOOKS = 33  # places along rows and columns where that is looked at
_SPHEROID = re.compile(r'SPHEROID\["[^"]*",([\d.eE+-]+),([\d.eE+-]+)')


def row_hectares(grid: Grid) -> NDArray[np.float64] | None:
    """Return the area of a pixel in each row, (height,), in hectares; None if it cannot be told by rows.

    Geographic: the area on the ellipsoid between the meridians and parallels that bound the pixel, in closed form (Snyder 1987,
    Map Projections: A Working Manual, USGS Professional Paper 1395, equation 3-12); for a grid that is turned against the
    parallels, that of the row's centre.

    Projected: the area on the map, by its unit, if nowhere on the grid that is more than 1 % off the area on the ellipsoid: so
    it is for UTM and most national grids. Else, the area on the ellipsoid if that is the same along each row, as for Mercator
    maps; None for other projections, such as a stereographic one far off its centre, and where there is no CRS.
    """
    if grid.crs is None:
        return None
    t = grid.transform
    if grid.crs.is_projected:
        return _projected(grid)
    found = _SPHEROID.search(grid.crs.to_wkt(version="WKT1_GDAL"))
    if not grid.crs.is_geographic or found is None:
        return None
    axis, inverse_flattening = float(found[1]), float(found[2])
    radians = _radians(grid.crs)
    rows = np.arange(grid.height + 1)
    if abs(t.b) + abs(t.d) < _ROTATED * abs(t.a):
        latitudes = np.clip((t.f + t.e * rows) * radians, -np.pi / 2, np.pi / 2)
        zones = np.abs(np.diff(_zone(latitudes, axis, inverse_flattening)))
        return np.asarray(zones * abs(t.a) * radians / _SQUARE_METRES)
    _, middle = grid.to_map(np.full(grid.height, grid.width / 2), rows[:-1] + 0.5)
    half = np.sqrt(abs(t.determinant)) / 2
    edges = np.clip(np.stack([middle - half, middle + half]) * radians, -np.pi / 2, np.pi / 2)
    return np.asarray(np.diff(_zone(edges, axis, inverse_flattening), axis=0)[0] * 2 * half * radians / _SQUARE_METRES)


def _projected(grid: Grid) -> NDArray[np.float64] | None:
    assert grid.crs is not None
    on_map = abs(grid.transform.determinant) * grid.crs.linear_units_factor[1] ** 2 / _SQUARE_METRES
    rows, columns = (np.unique(np.linspace(0, size - 1, _LOOKS).astype(int)) for size in grid.shape)
    looks = _on_ellipsoid(grid, rows, columns) / on_map
    if not np.isfinite(looks).any() or np.nanmax(np.abs(looks - 1)) <= _OFF:  # corners of maps of the world lie nowhere
        return np.full(grid.height, on_map)
    if not np.isfinite(looks).all() or (np.ptp(looks, axis=1) > _OFF * looks.min(axis=1)).any():
        return None
    return _on_ellipsoid(grid, np.arange(grid.height), np.array([grid.width // 2]))[:, 0]


def _on_ellipsoid(grid: Grid, rows: NDArray[np.int_], columns: NDArray[np.int_]) -> NDArray[np.float64]:
    """Area on the ellipsoid in hectares of the pixels at rows and columns of a projected grid; NaN where there is no ground.

    In the plane of longitude and ``_zone``, which keeps areas, a pixel is taken to be what straight lines between its corners
    bound.
    """
    assert grid.crs is not None
    text = grid.crs.to_wkt(version="WKT1_GDAL")
    found = _SPHEROID.search(text)
    none = np.full((len(rows), len(columns)), np.nan)
    if found is None or "GEOGCS[" not in text:
        return none
    base = CRS.from_wkt(_bracketed(text[text.index("GEOGCS[") :]))
    x, y = grid.to_map(
        (columns[None, :, None] + np.array([0, 1, 1, 0])).repeat(len(rows), 0).ravel(),
        (rows[:, None, None] + np.array([0, 0, 1, 1])).repeat(len(columns), 1).ravel(),
    )
    try:
        longitudes, latitudes = (np.array(values) * _radians(base) for values in transform(grid.crs, base, x, y))
    except GDAL_ERRORS:
        return none
    corners = (len(rows), len(columns), 4)
    with np.errstate(invalid="ignore"):  # of infinite coordinates
        zones = _zone(latitudes, float(found[1]), float(found[2])).reshape(corners)
        east = longitudes.reshape(corners)
        east = (east - east[..., :1] + np.pi) % (2 * np.pi) - np.pi  # over the antimeridian, too
        across, up = east[..., 2:] - east[..., :2], zones[..., 2:] - zones[..., :2]  # both diagonals
        return np.asarray(np.abs(across[..., 0] * up[..., 1] - across[..., 1] * up[..., 0]) / 2 / _SQUARE_METRES)


def _bracketed(text: str) -> str:
    """The part of a text that ends with the bracket that closes its first one."""
    depth = np.cumsum([(mark == "[") - (mark == "]") for mark in text])
    return text[: int(np.flatnonzero((depth == 0) & (np.array(list(text)) == "]"))[0]) + 1]


def _radians(crs: CRS) -> float:
    factor = float(crs.units_factor[1])
    return factor if factor > 0 else float(np.deg2rad(1))


def _zone(latitudes: NDArray[np.float64], axis: float, inverse_flattening: float) -> NDArray[np.float64]:
    """Area in square metres between the equator and latitudes in radians, of one radian of longitude."""
    sine = np.sin(latitudes)
    if not inverse_flattening:  # a sphere
        return np.asarray(axis**2 * sine)
    flattening = 1 / inverse_flattening
    square = flattening * (2 - flattening)
    e = np.sqrt(square)
    return np.asarray(axis**2 * (1 - square) / 2 * (sine / (1 - square * sine**2) + np.arctanh(e * sine) / e))
