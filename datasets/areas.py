"""Parts of a scene that are asked for: a box in map coordinates, or polygons."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize as burn

from .grid import Box, Grid
from .raster import quiet_georeference
from .vector import box_around, read_features, to_grid

_Array = NDArray[Any]  # of shapely geometries

_BLOCK = 512  # pixels on a side
_EXACT = 2.0**20  # a millionth of a pixel, of which coordinates are made whole multiples: shifts by whole pixels are exact then
_TOLERANCE_PX = 1e-6
_BEND_PX = 0.1  # by which a straight edge may leave the curve that it becomes in another CRS


def parse_bounds(text: str) -> Box:
    """Read ``left,bottom,right,top``.

    Raises:
        ValueError: anything else.
    """
    try:
        left, bottom, right, top = (float(word) for word in text.split(","))
    except ValueError:
        raise ValueError(f"bounds {text!r}: expected four numbers left,bottom,right,top") from None
    return left, bottom, right, top


def window_of(grid: Grid, bounds: Sequence[float] | str) -> tuple[int, int, int, int]:
    """Return row, column, height and width of all pixels that a box touches, as far as the grid goes.

    Args:
        grid: of the scene.
        bounds: (left, bottom, right, top) in its CRS, or this as text; of a grid without georeference in pixels, from its corner.

    Raises:
        ValueError: no box, or one that lies beside the grid.
    """
    box = parse_bounds(bounds) if isinstance(bounds, str) else bounds
    if len(box) != 4 or not np.isfinite(box).all() or box[0] >= box[2] or box[1] >= box[3]:
        shown = ",".join(f"{value:.10g}" for value in box)
        raise ValueError(f"bounds {shown}: expected left,bottom,right,top with left < right and bottom < top")
    left, bottom, right, top = box
    columns, rows = grid.to_pixel([left, right, left, right], [bottom, bottom, top, top])
    first_column, last_column = _touched(columns, grid.width)
    first_row, last_row = _touched(rows, grid.height)
    if first_column >= last_column or first_row >= last_row:
        grid.require_overlap((left, bottom, right, top), "bounds", "box")
        raise ValueError(f"bounds {left:.10g},{bottom:.10g},{right:.10g},{top:.10g}: no pixel of the scene lies there")
    return first_row, first_column, last_row - first_row, last_column - first_column


def _touched(coordinates: NDArray[np.float64], size: int) -> tuple[int, int]:
    low, high = coordinates.min() + _TOLERANCE_PX, coordinates.max() - _TOLERANCE_PX
    return max(math.floor(low), 0), min(math.ceil(high), size)


@dataclass(frozen=True, eq=False)
class AreaMask:
    """Polygons as a mask of pixels, made window by window. A pixel belongs to them if its centre lies in one.

    It holds the polygons around the scene and no pixels, and can be sent to other processes.
    """

    path: str
    grid: Grid
    polygons: _Array  # in pixel coordinates

    @classmethod
    def of(cls, path: str, grid: Grid) -> "AreaMask":
        """Read the polygons of a vector file, or of a layer of it (``path:layer``), that lie on a scene.

        Edges are straight in the file's CRS; where they are bent in the scene's, points are put between their ends.

        Raises:
            FileNotFoundError: no such file.
            ValueError: unreadable, other geometries than polygons, no CRS, or none on the scene.
        """
        import shapely

        path = str(path)
        found = read_features(path, near=grid)
        parts, _ = found.parts(found.present, ("Polygon",))
        if not len(parts):
            left, bottom, right, top = (f"{value:.8g}" for value in grid.bounds)
            raise ValueError(f"{path}: no polygon on the scene in ({left}, {bottom}, {right}, {top}; left, bottom, right, top)")
        parts = _valid(parts)
        if box := box_around(grid, found.crs):  # what reaches far out may have no coordinates there
            parts = _polygons(shapely.clip_by_rect(parts, *box))
        placed = to_grid(path, _bendable(path, parts, found.crs, grid), found.crs, grid, "polygons")
        grid.require_overlap(tuple(shapely.total_bounds(placed).tolist()), path, "polygons")
        pixels = shapely.transform(placed, lambda xy: np.round(grid.to_pixel(xy[:, 0], xy[:, 1]).T * _EXACT) / _EXACT)
        return cls(path, grid, _valid(np.asarray(pixels)))

    def read(self, row: int, column: int, height: int, width: int) -> NDArray[np.bool_]:
        """Return (height, width): True inside. A window gives exactly what the same pixels of a larger one give."""
        inside = np.zeros((height, width), dtype=np.bool_)
        # Burnt in blocks of fixed places: rounding at an edge then does not depend on the window.
        for top in range(row // _BLOCK * _BLOCK, row + height, _BLOCK):
            for left in range(column // _BLOCK * _BLOCK, column + width, _BLOCK):
                block = self._block(top, left)
                rows, columns = slice(max(top, row), top + _BLOCK), slice(max(left, column), left + _BLOCK)
                part = block[rows.start - top : row + height - top, columns.start - left : column + width - left]
                inside[rows.start - row : rows.stop - row, columns.start - column : columns.stop - column] = part
        return inside

    @cached_property
    def _tree(self) -> Any:
        import shapely

        return shapely.STRtree(self.polygons)

    def _block(self, top: int, left: int) -> NDArray[np.bool_]:
        import shapely

        square = shapely.box(left, top, left + _BLOCK, top + _BLOCK)
        if len(self._tree.query(square, predicate="covered_by")):
            return np.ones((_BLOCK, _BLOCK), dtype=np.bool_)
        near = self.polygons[np.sort(self._tree.query(square, predicate="intersects"))]
        near = shapely.clip_by_rect(near, left - 1, top - 1, left + _BLOCK + 1, top + _BLOCK + 1)
        near = _polygons(near)
        if not len(near):
            return np.zeros((_BLOCK, _BLOCK), dtype=np.bool_)
        with quiet_georeference():
            burnt = burn(near, out_shape=(_BLOCK, _BLOCK), transform=Affine.translation(left, top), dtype=np.uint8)
        return np.asarray(burnt != 0)


def _polygons(geometries: _Array) -> _Array:
    """Return the single polygons among geometries of all kinds."""
    import shapely

    parts = shapely.get_parts(shapely.get_parts(geometries))  # twice: collections may hold multi-polygons
    return np.asarray(parts[(shapely.get_type_id(parts) == shapely.GeometryType.POLYGON) & ~shapely.is_empty(parts)])


def _valid(polygons: _Array) -> _Array:
    import shapely

    bad = ~shapely.is_valid(polygons)
    return polygons if not bad.any() else _polygons(np.where(bad, shapely.make_valid(polygons), polygons))


def _bendable(path: str, parts: _Array, crs: str | None, grid: Grid) -> _Array:
    """Return polygons with points on edges that are bent in the grid's CRS, so that they keep to a tenth of a pixel."""
    import shapely

    ends, ring = shapely.get_coordinates(shapely.get_rings(shapely.get_parts(parts)), return_index=True)
    edges = np.stack([ends[:-1], ends[1:]], axis=1)[ring[:-1] == ring[1:]]
    lines = shapely.linestrings(edges)
    straight = shapely.get_coordinates(to_grid(path, lines, crs, grid, "polygons")).reshape(-1, 2, 2).mean(1)
    bent = shapely.get_coordinates(to_grid(path, shapely.points(edges.mean(1)), crs, grid, "polygons"))
    if not (np.isfinite(straight).all() and np.isfinite(bent).all()):
        raise ValueError(f"{path}: polygons in {crs} reach to where {grid.crs} has no coordinates: cut them to the scene")
    offset = np.abs(grid.to_pixel(*bent.T) - grid.to_pixel(*straight.T)).max(0)
    far = offset > _BEND_PX
    if not far.any():
        return parts
    # The distance between arc and chord grows by the square of the length.
    lengths = np.hypot(*(edges[far, 1] - edges[far, 0]).T) * np.sqrt(_BEND_PX / offset[far])
    return np.asarray(shapely.segmentize(parts, float(lengths.min())))
