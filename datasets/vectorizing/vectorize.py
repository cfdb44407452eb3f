"""Read a class map strip by strip, and write its polygons as they are found."""

from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.windows import Window

from ..classes import ClassInfo
from ..grid import Grid
from ..hectares import row_hectares
from ..raster import open_raster
from ..writing import atomic
from .features import VECTOR_SUFFIXES, Features, write_features
from .scanning import Polygons, Scan
from .spill import Spill, spilling

_STRIP_PIXELS = 2**19  # of which the worst map takes 0.2 GB
_READ_PIXELS = 2**24  # decoded blocks, 16 MB where there are less than 256 classes

Tick = Callable[[int, int], None]  # rows done, rows in all


def check_vectors(out: Path) -> None:
    """Raise a ValueError if polygons cannot be written to a file of that name, an ImportError if not at all here."""
    if out.suffix.lower() not in VECTOR_SUFFIXES:
        raise ValueError(f"{out}: polygons are written as {' or '.join(VECTOR_SUFFIXES)}")
    if any(find_spec(package) is None for package in ("pyarrow", "pyogrio", "shapely", "scipy")):
        raise ImportError("polygons need pyarrow, pyogrio, shapely and scipy: pip install 'geovit[hyperspectral]'")


def vectorize(
    class_map: Path, out: Path, classes: Sequence[ClassInfo], *, overwrite: bool = False, tick: Tick | None = None
) -> int:
    """Write the polygons of a class map: areas of one class that are connected by edges of pixels, whatever blocks they span.

    The outlines follow the pixels, as those of GDAL do. Columns are ``value``, ``name``, ``color`` (#rrggbb), ``pixels``
    and ``hectares`` (null where areas cannot be told; see ``row_hectares``). Pixels without data are in no polygon.

    Memory does not grow with the map: it holds a strip and one batch of polygons. What must wait lies in a temporary file beside
    ``out``: 8 bytes for each corner. A polygon is in memory as a whole when it is written, some 130 bytes a corner.

    Args:
        class_map: raster of one band; 0 and its nodata value are no class.
        out: GeoPackage (.gpkg) or GeoParquet (.parquet); it appears whole or not at all.
        classes: of the map.
        overwrite: replace ``out``.
        tick: called after each strip.

    Returns:
        How many polygons were written.

    Raises:
        ValueError: another ending, or a map with values that are no class.
        FileNotFoundError: no such map.
        FileExistsError, OSError: as in ``atomic``.
        ImportError: pyogrio, pyarrow, shapely or scipy is not installed.
    """
    check_vectors(out)
    with open_raster(str(class_map)) as src:
        grid = Grid.of(src)
        with atomic(out, overwrite) as temporary, spilling(temporary.parent) as spill:
            hectares = row_hectares(grid)
            weights = np.zeros(grid.height) if hectares is None else hectares
            polygons = _polygons(src, weights, spill, tick)
            features = (_features(found, classes, class_map, areas=hectares is not None) for found in polygons)
            return write_features(temporary, features, grid)


def _polygons(src: DatasetReader, weights: NDArray[np.float64], spill: Spill, tick: Tick | None) -> Iterator[Polygons]:
    scan = Scan(src.width, spill)
    rows = max(_STRIP_PIXELS // src.width, 1)
    for first, values in _strips(src, rows):
        yield scan.strip(values, weights[first : first + len(values)])
        if tick is not None:
            tick(first + len(values), src.height)
    yield scan.end()


def _strips(src: DatasetReader, rows: int) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """Yield the first row and the values (rows, width) of strips; whole blocks are read at once where memory allows."""
    block = max(min(src.block_shapes[0][0], _READ_PIXELS // src.width), 1)
    nodata = src.nodata
    for top in range(0, src.height, block):
        values = src.read(1, window=Window(0, top, src.width, min(block, src.height - top)))
        for first in range(0, len(values), rows):
            part = values[first : first + rows].astype(np.int32)
            if nodata:
                part[part == nodata] = 0
            yield top + first, part


def _features(found: Polygons, classes: Sequence[ClassInfo], source: Path, *, areas: bool) -> Features:
    known = {info.value: info for info in classes}
    strange = next((value for value in np.unique(found.values).tolist() if value not in known), None)
    if strange is not None:
        raise ValueError(f"{source}: value {strange} is not among the classes {', '.join(map(str, known))}")
    infos = [known[value] for value in found.values.tolist()]
    return Features(
        points=found.points,
        rings=found.rings,
        polygons=found.polygons,
        columns={
            "value": found.values,
            "name": [info.name for info in infos],
            "color": [f"#{bytes(info.color).hex()}" for info in infos],
            "pixels": found.pixels,
            "hectares": found.weights if areas else None,
        },
    )
