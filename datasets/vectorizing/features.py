"""Polygons with attributes, written batch by batch: GeoPackage by GDAL, GeoParquet by Arrow."""

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..grid import Grid
from ..raster import GDAL_ERRORS
from .rings import Points
from .wkb import wkb_polygons

if TYPE_CHECKING:
    import pyarrow as pa

VECTOR_SUFFIXES = (".gpkg", ".parquet")

_LAYER = "classes"
_BATCH_POINTS = 2**18  # polygons are handed on in batches of about so many corners
_MOST_BYTES = 2**31 - 1  # of a batch in Arrow


@dataclass(frozen=True, eq=False)
class Features:
    """Polygons in pixel coordinates with their attributes.

    Args:
        points: corners of all rings, not closed, (points, 2): column and row.
        rings: where each ring begins in ``points``, and their number.
        polygons: where each polygon begins in ``rings``, its outer ring first, and their number.
        columns: by name, (polygons,) each; None for one without values.
    """

    points: Points
    rings: NDArray[np.int64]
    polygons: NDArray[np.int64]
    columns: Mapping[str, Any]


def write_features(path: Path, features: Iterable[Features], grid: Grid) -> int:
    """Write features as they come, and return their number.

    Raises:
        OSError: GDAL or Arrow could not write.
    """
    import pyarrow as pa
    import pyogrio

    fields = [("value", pa.int32()), ("name", pa.string()), ("color", pa.string()), ("pixels", pa.int64())]
    schema = pa.schema([*fields, ("hectares", pa.float64()), ("geometry", pa.binary())])
    refused = (pyogrio.errors.DataSourceError, pyogrio.errors.GeometryError, pyogrio.errors.FeatureError, pa.ArrowException)
    written = _Counted(chain.from_iterable(_batches(each, schema, grid) for each in features))
    try:
        if path.suffix.lower() == ".gpkg":
            _write_geopackage(path, written, schema, grid)
        else:
            _write_geoparquet(path, written, schema, grid)
    except refused as error:
        raise OSError(f"{path.name}: {error}") from error
    return written.rows


class _Counted:
    def __init__(self, batches: Iterable["pa.RecordBatch"]) -> None:
        self._batches = batches
        self.rows = 0
        self.error: Exception | None = None

    def __iter__(self) -> Iterator["pa.RecordBatch"]:
        try:
            for batch in self._batches:
                self.rows += batch.num_rows
                yield batch
        except Exception as error:  # GDAL, which pulls the batches, would tell only that there was one
            self.error = error
            raise


def _batches(features: Features, schema: "pa.Schema", grid: Grid) -> Iterator["pa.RecordBatch"]:
    import pyarrow as pa

    ends = features.rings[features.polygons[1:]]  # of polygons, in points
    first = 0
    while first < len(ends):
        begin = features.rings[features.polygons[first]]
        last = max(int(np.searchsorted(ends, begin + _BATCH_POINTS)), first + 1)
        rings = features.rings[features.polygons[first] : features.polygons[last] + 1]
        polygons = features.polygons[first : last + 1] - features.polygons[first]
        found, offsets = wkb_polygons(features.points[rings[0] : rings[-1]], rings - rings[0], polygons, grid)
        if len(found) > _MOST_BYTES:
            raise ValueError(f"a polygon has {rings[-1] - rings[0]:,} corners, more than the formats hold")
        shapes = pa.Array.from_buffers(
            pa.binary(), last - first, [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(found)]
        )
        columns = [
            pa.nulls(last - first, field.type)
            if features.columns[field.name] is None
            else pa.array(features.columns[field.name][first:last], field.type)
            for field in list(schema)[:-1]
        ]
        yield pa.record_batch([*columns, shapes], schema=schema)
        first = last


def _write_geopackage(path: Path, batches: _Counted, schema: "pa.Schema", grid: Grid) -> None:
    import pyarrow as pa
    import pyogrio

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*'crs' was not provided", category=UserWarning)
            pyogrio.write_arrow(
                pa.RecordBatchReader.from_batches(schema, batches),
                path,
                layer=_LAYER,
                driver="GPKG",
                geometry_name="geometry",
                geometry_type="Polygon",
                crs=None if grid.crs is None else grid.crs.to_wkt(),
            )
    except (RuntimeError, ValueError, *GDAL_ERRORS):
        if batches.error is not None:
            raise batches.error from None
        raise


def _write_geoparquet(path: Path, batches: _Counted, schema: "pa.Schema", grid: Grid) -> None:
    """GeoParquet 1.1.0 (geoparquet.org/releases/v1.1.0): a key "geo" in the file's metadata tells what the column is."""
    import pyarrow.parquet as pq

    column = {
        "encoding": "WKB",
        "geometry_types": ["Polygon"],
        "crs": None if grid.crs is None else grid.crs.to_dict(projjson=True),
        "edges": "planar",
        "bbox": list(grid.bounds),
    }
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    names = [name for name in schema.names if name != "geometry"]  # of which copies would be held, and are of no use
    with pq.ParquetWriter(
        path, schema.with_metadata({"geo": json.dumps(geo)}), compression="zstd", use_dictionary=names, write_statistics=names
    ) as writer:
        for batch in batches:
            writer.write_batch(batch)
