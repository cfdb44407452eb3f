"""Polygons and points with a class attribute, burnt onto a grid."""

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.features import rasterize as burn
from rasterio.warp import transform as transform_points
from rasterio.warp import transform_bounds

from .classes import MAX_VALUE
from .grid import Box, Grid
from .raster import GDAL_ERRORS, quiet_georeference, reason

logger = logging.getLogger(__name__)

_VECTOR = re.compile(r"\.(gpkg|geojson|json|shp|fgb|kml|gml|sqlite)(:[^:/\\]+)?$", flags=re.IGNORECASE)

_STRIP_PIXELS = 2**22  # burnt at a time: two arrays of 16 MB

_Array = NDArray[Any]  # of shapely geometries or attribute values


class NotAVectorError(ValueError):
    """The file exists, and GDAL has no driver that reads it as vectors."""


def looks_like_vector(source: str) -> bool:
    """Whether a file name, with or without ``:layer``, has a suffix of vector formats."""
    return _VECTOR.search(source) is not None


def rasterize(source: str, grid: Grid, field: str | None) -> tuple[NDArray[np.int64], NDArray[np.int32], dict[int, str]]:
    """Pixels of ``grid`` with a class (row * width + column, ascending), their class values, and the names of the values.

    A polygon labels the pixels whose centre it holds, or those it touches where it holds none (with a warning); a point labels
    its pixel. Pixels claimed by different classes stay unlabelled, with a warning. Features without a class are skipped.

    An integer field keeps its values if all lie in 1..65535. Other fields are numbered from 1 in the order of their sorted
    names, over the whole file, so that the numbers do not depend on the scene.

    Memory follows the geometries and the pixels that they label, and not the grid.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unreadable, no such field or layer, no CRS, lines, or no overlap with the scene.
        ImportError: pyogrio or shapely is not installed.
    """
    parts, values, names = _load(source, grid, field)
    pixels, low, high = _claims(parts, values, grid, source)
    agreed = low == high
    if not agreed.all():
        logger.warning("%s: %d pixels claimed by several classes stay unlabelled", source, (~agreed).sum())
    pixels, labels = pixels[agreed], high[agreed]
    missed = sorted(set(values.tolist()) - set(np.unique(labels).tolist()))
    if missed and len(labels):
        logger.warning("%s: no pixel on the scene for %s", source, ", ".join(names.get(v, f"class {v}") for v in missed))
    return pixels, labels, names


def _claims(
    parts: _Array, values: NDArray[np.int32], grid: Grid, source: str
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """Pixels that any geometry claims, ascending, and the smallest and the largest class value that each is given."""
    import shapely

    order = np.argsort(values, kind="stable")
    parts, values = parts[order], values[order]
    points = shapely.get_type_id(parts) == shapely.GeometryType.POINT
    polygons = np.flatnonzero(~points)
    claims = list(_burnt(parts, polygons, grid, all_touched=False))
    seen = {rank for _, *ranks in claims for rank in np.unique(np.concatenate(ranks)).tolist()}
    small = [i for i in polygons.tolist() if i not in seen and _holds_no_centre(parts[i], grid)]
    if small:
        logger.warning("%s: %d polygons hold no pixel centre; they label every pixel they touch", source, len(small))
        claims += _burnt(parts, np.asarray(small), grid, all_touched=True)
    columns, rows = np.floor(grid.to_pixel(*shapely.get_coordinates(parts[points]).T)).astype(np.int64)
    inside = (columns >= 0) & (columns < grid.width) & (rows >= 0) & (rows < grid.height)
    at = np.flatnonzero(points)[inside]
    claims.append((rows[inside] * grid.width + columns[inside], at, at))

    found, first, last = (np.concatenate(column) for column in zip(*claims, strict=True))
    order = np.argsort(found, kind="stable")
    pixels, starts = np.unique(found[order], return_index=True)
    if not len(pixels):
        return pixels, values[:0], values[:0]
    return pixels, np.minimum.reduceat(values[first[order]], starts), np.maximum.reduceat(values[last[order]], starts)


def _burnt(
    parts: _Array, chosen: NDArray[np.intp], grid: Grid, *, all_touched: bool
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.intp], NDArray[np.intp]]]:
    """Pixels that chosen polygons claim, and for each the first and the last of these polygons; strip by strip."""
    import shapely

    left, bottom, right, top = shapely.bounds(parts[chosen]).T
    columns, rows = grid.to_pixel([left, left, right, right], [bottom, top, bottom, top])
    first_row, last_row, first_column, last_column = rows.min(0), rows.max(0), columns.min(0), columns.max(0)
    height = max(_STRIP_PIXELS // grid.width, 1)
    for strip in range(0, grid.height, height):
        near = (first_row <= strip + height) & (last_row >= strip) & (first_column <= grid.width) & (last_column >= 0)
        if not near.any():
            continue
        begin = max(int(first_column[near].min()) - 1, 0)
        width = min(int(last_column[near].max()) + 2, grid.width) - begin
        part, ranks = grid.part(begin, strip, width, min(height, grid.height - strip)), chosen[near]
        # What is burnt last stays: the last in this order, the first in the other one.
        up = _burn(parts[ranks], ranks + 1, part, all_touched)
        down = _burn(parts[ranks[::-1]], ranks[::-1] + 1, part, all_touched)
        at = np.nonzero(up)
        yield (at[0] + strip) * grid.width + at[1] + begin, down[at].astype(np.intp) - 1, up[at].astype(np.intp) - 1


def _burn(parts: _Array, ids: NDArray[np.intp], grid: Grid, all_touched: bool) -> NDArray[np.int32]:
    with quiet_georeference():
        burnt: NDArray[np.int32] = burn(
            zip(parts, ids.tolist(), strict=True),
            out_shape=grid.shape,
            transform=grid.transform,
            all_touched=all_touched,
            dtype=np.int32,
        )
    return burnt


def _holds_no_centre(polygon: Any, grid: Grid) -> bool:
    """Whether a polygon lies at least partly on the grid and holds no pixel centre, on or off the grid."""
    left, bottom, right, top = polygon.bounds
    columns, rows = np.floor(grid.to_pixel([left, left, right, right], [bottom, top, bottom, top])).astype(int)
    column, row, width, height = columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1
    if column >= grid.width or row >= grid.height or column + width <= 0 or row + height <= 0:
        return False
    window = grid.part(int(column), int(row), int(width), int(height))
    return not _burn(np.array([polygon]), np.array([1]), window, all_touched=False).any()


@dataclass(frozen=True, eq=False)
class Features:
    """What a layer of a vector file holds: geometries, their coordinate reference system, and attributes by name."""

    path: str
    crs: str | None
    geometries: _Array
    columns: dict[str, _Array]

    def parts(self, chosen: NDArray[np.bool_], kinds: Sequence[str]) -> tuple[_Array, NDArray[np.intp]]:
        """Return single geometries of the chosen features and the number of each one's feature.

        Raises:
            ValueError: a geometry of another kind.
        """
        import shapely

        parts, owner = shapely.get_parts(self.geometries[chosen], return_index=True)
        if others := {part.geom_type for part in parts} - set(kinds):
            wanted = " or ".join(f"{kind.lower()}s" for kind in kinds)
            raise ValueError(f"{self.path}: holds {', '.join(sorted(others))} geometries, expected {wanted}")
        return parts, owner

    @property
    def present(self) -> NDArray[np.bool_]:
        """Which features have a geometry."""
        import shapely

        return np.asarray(~(shapely.is_missing(self.geometries) | shapely.is_empty(self.geometries)))


def read_features(source: str, near: Grid | None = None) -> Features:
    """Read a vector file, or a layer of it (``path:layer``).

    Args:
        source: the file.
        near: read only what may lie on this grid, where this can be told.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unreadable, or no such layer.
        ImportError: pyogrio or shapely is not installed.
    """
    try:
        import pyogrio
        import shapely
    except ImportError as error:
        raise ImportError("vector files need pyogrio and shapely: pip install 'geovit[hyperspectral]'") from error

    path, layer = _split_layer(source)
    try:
        layers = [name for name, kind in pyogrio.list_layers(path) if kind is not None]
        if layer is None and len(layers) != 1:
            raise ValueError(f"{path}: {len(layers)} layers {layers}: name one, for example {path}:{(layers or ['layer'])[0]}")
        if layer is not None and layer not in layers:
            raise ValueError(f"{path}: no layer {layer!r}; it has {layers}")
        layer = layer or layers[0]
        box = None if near is None else box_around(near, pyogrio.read_info(path, layer=layer)["crs"])
        meta, _, wkb, columns = pyogrio.raw.read(path, layer=layer, force_2d=True, bbox=box)
        geometries = shapely.from_wkb(wkb)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, shapely.errors.GEOSException) as error:
        raise NotAVectorError(f"{path}: not a vector file that GDAL can read ({error})") from error
    return Features(path, meta["crs"], geometries, dict(zip(meta["fields"], columns, strict=True)))


def box_around(grid: Grid, crs: str | None) -> Box | None:
    """Return a box around a grid in another CRS, widened by a tenth; None if there is none, as across the antimeridian."""
    if crs is None or grid.crs is None:
        return None
    try:
        left, bottom, right, top = transform_bounds(grid.crs, CRS.from_user_input(crs), *grid.bounds)
    except GDAL_ERRORS:
        return None
    if not (np.isfinite([left, bottom, right, top]).all() and left < right and bottom < top):
        return None
    across, up = (right - left) / 10, (top - bottom) / 10
    return left - across, bottom - up, right + across, top + up


def _load(source: str, grid: Grid, field: str | None) -> tuple[_Array, NDArray[np.int32], dict[int, str]]:
    """Single polygons and points in the grid's CRS, their class values, and names of the values."""
    import shapely

    found = read_features(source)
    values, names = _number(found.path, _choose(found.path, found.columns, field))
    keep = (values > 0) & found.present
    if not keep.any():
        raise ValueError(f"{found.path}: no geometry with a class")
    parts, owner = found.parts(keep, ("Polygon", "Point"))
    parts = to_grid(found.path, parts, found.crs, grid)
    grid.require_overlap(tuple(shapely.total_bounds(parts).tolist()), found.path)
    return parts, values[keep][owner], names


def _split_layer(source: str) -> tuple[str, str | None]:
    path, _, layer = source.rpartition(":")
    if Path(source).exists() or not path:
        path, layer = source, ""
    if not Path(path).exists() and "://" not in path and not path.startswith("/vsi"):
        raise FileNotFoundError(f"{path}: no such file")
    return path, layer or None


def to_grid(path: str, parts: _Array, crs: str | None, grid: Grid, what: str = "labels") -> _Array:
    """Return geometries in a grid's CRS.

    Raises:
        ValueError: only one of the two CRS is known, or coordinates have no place in the grid's.
    """
    import shapely

    if (crs is None) != (grid.crs is None):
        lacking, other = (what, "scene") if crs is None else ("scene", what)
        raise ValueError(
            f"{path}: coordinate reference system known for the {other}, not for the {lacking}: cannot place the {what}"
        )
    if crs is None:
        return parts
    try:
        source = CRS.from_user_input(crs)
        if source == grid.crs:
            return parts
        return np.asarray(
            shapely.transform(parts, lambda xy: np.column_stack(transform_points(source, grid.crs, xy[:, 0], xy[:, 1])))
        )
    except GDAL_ERRORS as error:
        raise ValueError(f"{path}: {what} in {crs} cannot be placed in {grid.crs} ({reason(error)})") from error


def _choose(path: str, columns: dict[str, _Array], field: str | None) -> _Array:
    if field is not None:
        if field not in columns:
            raise ValueError(f"{path}: no field {field!r}; it has {', '.join(columns) or 'none'}")
        return columns[field]
    plausible = [name for name, column in columns.items() if _whole(column) is not None or _is_text(column)]
    if len(plausible) != 1:
        raise ValueError(
            f"{path}: {'several fields' if plausible else 'no field'} could hold the class; name it with --field,"
            f" the file has {', '.join(columns) or 'none'}"
        )
    logger.info("%s: classes from field %r", path, plausible[0])
    return columns[plausible[0]]


def _is_text(column: _Array) -> bool:
    return (
        column.dtype.kind == "O"
        and any(isinstance(x, str) for x in column)
        and all(x is None or isinstance(x, str) for x in column)
    )


def _whole(column: _Array) -> list[int | None] | None:
    """Integers of a column, None for null; None if it is no column of integers. Nulls make pyogrio return floats."""
    if column.dtype.kind not in "iuf":
        return None
    null = np.isnan(column) if column.dtype.kind == "f" else np.zeros(len(column), dtype=bool)
    if null.all() or (column[~null] != np.floor(column[~null])).any():
        return None
    return [None if missing else int(value) for value, missing in zip(column, null, strict=True)]


def _number(path: str, column: _Array) -> tuple[NDArray[np.int32], dict[int, str]]:
    whole = _whole(column)
    if whole is None and column.dtype.kind not in "Ob":
        raise ValueError(f"{path}: the class field holds {column.dtype} values, expected integers or text")
    if whole is not None and all(value is None or 1 <= value <= MAX_VALUE for value in whole):
        return np.array([value or 0 for value in whole], dtype=np.int32), {}
    cells = whole if whole is not None else [None if cell is None else str(cell).strip() or None for cell in column]
    distinct = sorted({cell for cell in cells if cell is not None})
    if len(distinct) > MAX_VALUE:
        raise ValueError(f"{path}: {len(distinct)} different classes, at most {MAX_VALUE} are possible")
    if whole is not None:
        logger.warning("%s: class values %s..%s are renumbered from 1; the names keep them", path, distinct[0], distinct[-1])
    values: dict[Any, int] = {cell: value for value, cell in enumerate(distinct, start=1)}
    return np.array([values.get(cell, 0) for cell in cells], dtype=np.int32), {v: str(cell) for cell, v in values.items()}
