"""From a plain file that has grown to a Cloud Optimized GeoTIFF."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.io import DatasetReader
from rasterio.windows import Window

from ..grid import Grid
from ..raster import quiet_georeference
from ..writing import atomic
from .layer import Layer
from .plain import GrowingRaster

logger = logging.getLogger(__name__)

CACHE_BYTES = 256 * 2**20  # of pixels that GDAL keeps, see ``small_cache``
_TILE_BYTES = 16 * 2**20  # of a tile of all bands, which GDAL up to 3.10 stores together
_READ_BYTES = 32 * 2**20


@contextmanager
def small_cache() -> Iterator[None]:
    """Let GDAL keep 256 MB of pixels in all threads of this process, if the user has not said how much by GDAL_CACHEMAX.

    By itself it keeps 5 % of the machine's memory, whatever the process was allowed.
    """
    if "GDAL_CACHEMAX" in os.environ:
        yield
        return
    with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES):
        yield


@contextmanager
def growing_cog(path: Path, layer: Layer, *, overwrite: bool = False) -> Iterator[GrowingRaster]:
    """Write one raster part by part; the Cloud Optimized GeoTIFF appears after the block whole, or not at all.

    For what is soon made of what is there: nothing is kept of it if it is cut off.

    Raises:
        FileExistsError, OSError: as of ``atomic``.
    """
    with atomic(path, overwrite) as target, TemporaryDirectory(dir=target.parent) as scratch:
        raster = GrowingRaster.make(Path(scratch) / "plain.tif", layer)
        try:
            yield raster
            make_cog(raster, target)
        finally:
            raster.close()


def make_cog(
    plain: GrowingRaster, target: Path, tick: Callable[[float], None] | None = None, mask: GrowingRaster | None = None
) -> None:
    """Write the Cloud Optimized GeoTIFF and read it back; its bytes depend on pixels and layer alone.

    Args:
        plain: what has grown.
        target: in a folder of its own, where GDAL's temporary files may lie.
        tick: told how much is done, up to 1.
        mask: of its pixels.

    Raises:
        OSError, or what GDAL raises: it could not be written, or does not read back the same.
    """
    layer = plain.layer
    kind = layer.stored.kind
    options = {
        "compress": "DEFLATE", "bigtiff": "IF_SAFER", "blocksize": cog_block(layer),
        "overview_resampling": layer.overviews.upper(),
    }  # fmt: skip
    if kind == "f" or layer.overviews == "average":
        options["predictor"] = "YES"  # for numbers that go on from pixel to pixel
    if layer.dtype == "float16":
        # GDAL writes Float32 of 16 bits, too, but where there are several bands, with bytes beside the edge of the raster that it
        # never set: each run would make another file. The predictor packs what was rounded to 16 bits nearly as small.
        options["nbits"] = 32
    if "GDAL_NUM_THREADS" not in os.environ:
        options["num_threads"] = "ALL_CPUS"
    with quiet_georeference():
        rasterio.shutil.copy(plain.file, target, driver="COG", **options)
        told = tick or (lambda _: None)
        told(0.6)
        with rasterio.open(target) as src:
            _check_layout(src, layer)
            for done, window in _windows(src, layer):
                there = src.read(window=window).astype(layer.stored, copy=False)
                written = plain.read(window.row_off, window.col_off, window.height, window.width)
                same = np.array_equal(there, written, equal_nan=kind == "f")
                if mask is not None:
                    valid = mask.read(window.row_off, window.col_off, window.height, window.width)
                    same = same and np.array_equal(src.read_masks(1, window=window), valid[0])
                if not same:
                    raise OSError("what was written does not read back the same")
                told(0.6 + 0.4 * done)
            if not Grid.of(src).matches(layer.grid):
                logger.warning("%s: GeoTIFF cannot hold this coordinate reference system exactly", layer.path)
    with target.open("rb") as whole:
        os.fsync(whole.fileno())


def cog_block(layer: Layer) -> int:
    """Return the pixels on a side of the tiles: 512, or fewer if there are so many bands that a tile would be large."""
    side = 512
    bytes_each = layer.bands * np.dtype(layer.profile["dtype"]).itemsize
    while side > 64 and side * side * bytes_each > _TILE_BYTES:
        side //= 2
    return side


def _check_layout(src: DatasetReader, layer: Layer) -> None:
    tiled = src.block_shapes[0][1] < max(src.width, 2) or max(src.shape) <= cog_block(layer)
    overviews = bool(src.overviews(1)) or max(src.shape) <= 512
    if src.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") != "COG" or not (tiled and overviews):
        raise OSError("what was written is no valid Cloud Optimized GeoTIFF")


def _windows(src: DatasetReader, layer: Layer) -> Iterator[tuple[float, Window]]:
    """Windows of whole tiles, so that each is decompressed once."""
    side = cog_block(layer)
    row_bytes = side * side * layer.bands * np.dtype(layer.profile["dtype"]).itemsize
    width = side * max(1, _READ_BYTES // row_bytes)
    for row in range(0, src.height, side):
        for column in range(0, src.width, width):
            yield (
                (row * src.width + min(side, src.height - row) * min(column + width, src.width)) / (src.height * src.width),
                Window(column, row, min(width, src.width - column), min(side, src.height - row)),
            )
