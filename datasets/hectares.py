"""Areas of pixels on the ground."""

import logging
import re

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS

from .grid import Grid

logger = logging.getLogger(__name__)

_SQUARE_METRES = 1e4  # of a hectare
_ROTATED = 1e-9


def row_hectares(grid: Grid) -> NDArray[np.float64] | None:
    """Return the area of a pixel in each row, (height,), in hectares; None if the unit of the map is not known.

    Projected: the area on the map, by its unit; a projection that does not keep areas is not corrected. Geographic: that on the
    ellipsoid between the meridians and parallels that bound the pixel, in closed form (Snyder 1987, Map Projections: A Working
    Manual, USGS Professional Paper 1395, equation 3-12); for a grid that is turned against the parallels, that of the row's
    centre.
    """
    if grid.crs is None:
        return None
    t = grid.transform
    if grid.crs.is_projected:
        metres = grid.crs.linear_units_factor[1]
        return np.full(grid.height, abs(t.determinant) * metres**2 / _SQUARE_METRES)
    found = re.search(r'SPHEROID\["[^"]*",([\d.eE+-]+),([\d.eE+-]+)', grid.crs.to_wkt(version="WKT1_GDAL"))
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
