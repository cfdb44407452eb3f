"""Polygons as well-known binary (OGC 06-103r4, section 8.2), made of arrays: nothing is held for a corner but its bytes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..grid import Grid
from .rings import Points

_POINT, _COUNT, _HEAD = 16, 4, 9  # bytes of two doubles; of a number of points; of byte order, type and number of rings
_POLYGON = b"\x01\x03\x00\x00\x00"  # little-endian, type 3
_AT_ONCE = 2**16  # points


def wkb_polygons(
    points: Points, rings: NDArray[np.int64], polygons: NDArray[np.int64], grid: Grid
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Write polygons one after the other.

    Args:
        points: corners of all rings, not closed, in pixels, (points, 2): column and row.
        rings: where each ring begins in ``points``, and their number, (rings + 1,).
        polygons: where each polygon begins in ``rings``, its outer ring first, and their number, (polygons + 1,).
        grid: that the pixels are of.

    Returns:
        The bytes, and where each polygon begins in them, and their number, (polygons + 1,).
    """
    # Each ring has its number of points before them, and its first point once more behind them.
    ring = np.arange(len(rings))
    starts = _COUNT * ring + _POINT * (rings + ring)
    offsets = starts[polygons] + _HEAD * np.arange(len(polygons))
    head = np.repeat(_HEAD * np.arange(1, len(polygons)), np.diff(polygons))  # bytes of heads before each ring
    places = starts[:-1] + head
    found = np.empty(offsets[-1], np.uint8)
    heads = np.empty((len(offsets) - 1, _HEAD), np.uint8)
    heads[:, : len(_POLYGON)] = np.frombuffer(_POLYGON, np.uint8)
    heads[:, len(_POLYGON) :] = np.diff(polygons).astype("<u4")[:, None].view(np.uint8)
    _put(found, offsets[:-1], heads)
    _put(found, places, (np.diff(rings) + 1).astype("<u4")[:, None])
    _put(found, places + _COUNT + _POINT * np.diff(rings), _placed(points[rings[:-1]], grid))
    for first in range(0, len(points), _AT_ONCE):
        number = np.arange(first, min(first + _AT_ONCE, len(points)))
        of = np.searchsorted(rings, number, side="right") - 1
        _put(found, places[of] + _COUNT + _POINT * (number - rings[of]), _placed(points[number], grid))
    return found, offsets


def _placed(points: Points, grid: Grid) -> NDArray[np.float64]:
    """Map coordinates (points, 2) as they are written."""
    return np.ascontiguousarray(grid.to_map(points[:, 0], points[:, 1]).T, dtype="<f8")


def _put(found: NDArray[np.uint8], places: NDArray[np.int64], items: NDArray[Any]) -> None:
    """Write the bytes of each row of items to its place."""
    if not len(items):
        return
    kind = np.dtype((np.void, items[0].nbytes))
    anywhere = np.ndarray((len(found) - kind.itemsize + 1,), kind, found.data, strides=(1,))
    anywhere[places] = np.ascontiguousarray(items).view(kind)[:, 0]
