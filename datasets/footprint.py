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

_HALF = 180.0  # degrees
_STRAIGHT = 1e-6  # degrees, a tenth of a metre
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
    ring = _without_straight(ring)
    if abs(ring[-1, 0] - ring[0, 0]) > _HALF:
        ring = _around_pole(ring)
    ring[:, 0] -= 360 * np.floor((ring[:, 0].min() + 180) / 360)
    south, north = float(ring[:, 1].min()), float(ring[:, 1].max())
    west, east = float(ring[:, 0].min()), float(ring[:, 0].max())
    parts = [ring]
    if east > _HALF:
        beyond = _clip(ring, _HALF, beyond=True)
        beyond[:, 0] -= 2 * _HALF
        parts = [_clip(ring, _HALF, beyond=False), beyond]
        east -= 360
    rings = [[_closed(part)] for part in parts]
    one = len(rings) == 1
    geometry = {"type": "Polygon" if one else "MultiPolygon", "coordinates": rings[0] if one else rings}
    return Footprint(geometry, (west, south, east, north))


def _without_straight(ring: _Ring) -> _Ring:
    """Leave out what lies on straight sides: a small scene is told by its four corners."""
    corners = ring[::_STEPS]
    share = (np.arange(_STEPS) / _STEPS)[None, :, None]
    straight = corners[:-1, None] * (1 - share) + corners[1:, None] * share
    return corners if np.abs(straight.reshape(-1, 2) - ring[:-1]).max() < _STRAIGHT else ring


def _around_pole(ring: _Ring) -> _Ring:
    """Lead an outline that goes around a pole from one side of the antimeridian to the other, and back over the pole."""
    ring = ring[:-1]
    longitudes = np.mod(ring[:, 0] + _HALF, 2 * _HALF) - _HALF
    order = np.argsort(longitudes)  # a rectangle around the pole meets each meridian once
    longitudes, latitudes = longitudes[order], ring[order, 1]
    before, after = longitudes[-1], longitudes[0] + 2 * _HALF
    share = (_HALF - before) / (after - before)
    edge = latitudes[-1] + share * (latitudes[0] - latitudes[-1])
    pole = np.sign(latitudes.mean()) * 90
    x = np.concatenate([[-_HALF], longitudes, [_HALF, _HALF, -_HALF, -_HALF]])
    return np.column_stack([x, np.concatenate([[edge], latitudes, [edge, pole, pole, edge]])])


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
