"""The outline of a grid on the globe, as GeoJSON wants it."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.warp import transform

from .grid import Box, Grid
from .raster import GDAL_ERRORS

_STEPS = 32  # pieces of a side: straight edges of a map are curved on the globe

_Ring = NDArray[np.float64]  # (points, 2), longitude and latitude in degrees


@dataclass(frozen=True)
class Footprint:
    """Where a grid lies, in WGS 84 longitude and latitude.

    Args:
        geometry: GeoJSON polygon, or several where it crosses the antimeridian (RFC 7946, section 3.1.9).
        bbox: west, south, east, north; west is larger than east if it crosses the antimeridian (section 5.2).
    """

    geometry: dict[str, Any]
    bbox: Box


def footprint(grid: Grid) -> Footprint | None:
    """Return the outline of a grid; None if its place on the globe is not known, or it reaches beyond its projection."""
    if grid.crs is None:
        return None
    try:
        xs, ys = transform(grid.crs, CRS.from_epsg(4326), *_outline(grid).tolist())
    except GDAL_ERRORS:
        return None
    ring = np.column_stack([xs, ys])
    if not np.isfinite(ring).all() or np.abs(ring[:, 1]).max() > 90 + 1e-9:
        return None
    ring[:, 0] = np.rad2deg(np.unwrap(np.deg2rad(ring[:, 0])))
    turn = ring[-1, 0] - ring[0, 0]
    if abs(turn) > 180:  # around a pole: the outline alone is no ring
        pole = np.sign(ring[:, 1].mean()) * 90
        ring = np.vstack([ring, [[ring[-1, 0], pole], [ring[0, 0], pole], ring[0]]])
    ring[:, 0] -= 360 * np.floor((ring[:, 0].min() + 180) / 360)
    south, north = float(ring[:, 1].min()), float(ring[:, 1].max())
    west, east = float(ring[:, 0].min()), float(ring[:, 0].max())
    parts = [ring]
    if east > 180:
        beyond = _clip(ring, 180, beyond=True)
        beyond[:, 0] -= 360
        parts = [_clip(ring, 180, beyond=False), beyond]
        west, east = (-180.0, 180.0) if abs(turn) > 180 else (west, east - 360)
    rings = [[_closed(part)] for part in parts]
    one = len(rings) == 1
    geometry = {"type": "Polygon" if one else "MultiPolygon", "coordinates": rings[0] if one else rings}
    return Footprint(geometry, (west, south, east, north))


def _outline(grid: Grid) -> NDArray[np.float64]:
    """Map coordinates (2, points) along the edge of a grid, closed."""
    steps = np.arange(_STEPS) / _STEPS
    there, back, none = steps, 1 - steps, np.zeros(_STEPS)
    columns = np.concatenate([there, none + 1, back, none, [0]]) * grid.width
    rows = np.concatenate([none, there, none + 1, back, [0]]) * grid.height
    return grid.to_map(columns, rows)


def _clip(ring: _Ring, longitude: float, *, beyond: bool) -> _Ring:
    """Keep what lies on one side of a meridian (Sutherland and Hodgman's algorithm for one edge)."""
    kept: list[NDArray[np.float64]] = []
    for start, end in pairwise(ring):
        inside = [(point[0] >= longitude) == beyond for point in (start, end)]
        if inside[0]:
            kept.append(start)
        if inside[0] != inside[1]:
            share = (longitude - start[0]) / (end[0] - start[0])
            kept.append(np.array([longitude, start[1] + share * (end[1] - start[1])]))
    return np.array([*kept, kept[0]])


def _closed(ring: _Ring) -> list[list[float]]:
    """Counter-clockwise (RFC 7946, section 3.1.6), seven digits: a centimetre."""
    x, y = ring.T
    if (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() < 0:
        ring = ring[::-1]
    return [[round(float(a), 7), round(float(b), 7)] for a, b in ring]
