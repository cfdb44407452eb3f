"""The plain file that a raster grows in: every tile has its place from the start, and pixels are written there."""

import base64
import errno
import os
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from ..images.geotiff import describe
from ..raster import GDAL_ERRORS, quiet_georeference, reason
from ..writing import write_category_names
from .layer import Layer

_TILE = 256  # pixels on a side: as GDAL has it. Smaller ones for smaller rasters, else little pictures of many bands grow large.
_TILE_OFFSETS, _LONG8 = 324, 16  # numbers of a tag and a type in TIFF 6.0 and BigTIFF


class GrowingRaster:
    """The plain file of a layer: BigTIFF, tiled, not compressed, every tile in its place from the start.

    Writing pixels changes no byte but theirs, so that a kill at any time leaves a file that can be read, in which the pixels that
    were written are. The disk space is taken when the file is made: a full disk is noticed then.
    """

    def __init__(self, file: Path, layer: Layer) -> None:
        """Open what ``make`` made.

        Raises:
            ValueError: the file is missing, damaged, or of another layer.
        """
        self.file = file
        self.layer = layer
        self._side, self._offsets = _tiles_of(file, layer)
        self._file = os.open(file, os.O_RDWR)

    @classmethod
    def make(cls, file: Path, layer: Layer) -> "GrowingRaster":
        """Make the file, all of it nodata.

        Raises:
            OSError: it cannot be written, or the disk is too small for it.
        """
        needed, free = plain_bytes(layer), shutil.disk_usage(file.parent).free
        if needed > free:
            error = OSError(
                f"cannot write {layer.path or file}: {needed / 1e9:.1f} GB are needed while it grows, "
                f"{free / 1e9:.1f} GB are free"
            )
            error.errno = errno.ENOSPC
            raise error
        side = _side(layer)
        # Not sparse: then closing writes all tiles, in order.
        options = {
            "driver": "GTiff", "tiled": True, "blockxsize": side, "blockysize": side, "interleave": "band", "bigtiff": "YES",
            "sparse_ok": False, "endianness": "LITTLE",
        }  # fmt: skip
        try:
            with quiet_georeference(), rasterio.open(file, "w", **layer.profile, **options) as dst:
                if layer.interpretations:
                    dst.colorinterp = [ColorInterp[name] for name in layer.interpretations]
                if layer.colors is not None:
                    dst.write_colormap(1, dict(layer.colors))
                for band, text in enumerate(layer.descriptions, start=1):
                    dst.set_band_description(band, text)
                if layer.scales is not None:
                    dst.scales = tuple(layer.scales)
                dst.update_tags(**layer.tags)
                if layer.details is not None:
                    describe(dst, layer.details)
                if layer.icc is not None:
                    dst.update_tags(ns="COLOR_PROFILE", SOURCE_ICC_PROFILE=base64.b64encode(layer.icc).decode())
            if layer.names is not None:
                write_category_names(file, layer.names)
            # GDAL keeps quiet about a disk that is full at closing, and leaves holes where the nodata value is 0.
            with file.open("r+b") as whole:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(whole.fileno(), 0, os.fstat(whole.fileno()).st_size)
                os.fsync(whole.fileno())
            return cls(file, layer)
        except ValueError as error:
            raise OSError("not all of it could be written") from error

    def write(self, values: NDArray[Any], row: int, column: int) -> int:
        """Write (bands, height, width) with its first pixel at ``row`` and ``column``, of any size; return a checksum.

        Raises:
            OSError: the file system refused.
        """
        values = self.layer.fitted(values)
        for number, (tile, rows, columns), (down, right) in self._touched(row, column, *values.shape[1:]):
            offset = tile + rows.start * self._side * values.itemsize
            count = (rows.stop - rows.start) * self._side
            pixels = values[number, down, right]
            if pixels.size < count:
                # One write of all that lies between is quicker than one for each row, and changes nothing but these pixels.
                whole = np.frombuffer(bytearray(self._read(count * values.itemsize, offset)), values.dtype).reshape(
                    -1, self._side
                )
                whole[:, columns] = pixels
                pixels = whole
            self._write(np.ascontiguousarray(pixels), offset)
        return zlib.crc32(values.data) if values.size else 0

    def checksum(self, row: int, column: int, height: int, width: int) -> int:
        """Return what ``write`` returned, if what it wrote is there."""
        values = self.read(row, column, height, width)
        return zlib.crc32(values.data) if values.size else 0

    def read(self, row: int, column: int, height: int, width: int) -> NDArray[Any]:
        """Read (bands, height, width), as they are stored."""
        values = np.empty((self.layer.bands, height, width), self.layer.stored)
        for number, (tile, rows, columns), (down, right) in self._touched(row, column, height, width):
            count = (rows.stop - rows.start) * self._side
            raw = self._read(count * values.itemsize, tile + rows.start * self._side * values.itemsize)
            values[number, down, right] = np.frombuffer(raw, values.dtype).reshape(-1, self._side)[:, columns]
        return values

    def head_checksum(self) -> int:
        """Return a checksum of all that lies before the tiles, which no writing changes."""
        return zlib.crc32(self._read(int(self._offsets.min()), 0))

    def sync(self) -> None:
        """Return when what was written will survive a loss of power."""
        sync(self._file)

    def close(self) -> None:
        """Let go of the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _touched(
        self, row: int, column: int, height: int, width: int
    ) -> Iterator[tuple[int, tuple[int, slice, slice], tuple[slice, slice]]]:
        """Of each band and tile: the band, offset of the tile, rows and columns in it, rows and columns of the rectangle."""
        for r, down, rows in _cut(row, height, self._side):
            for c, right, columns in _cut(column, width, self._side):
                for number, offset in enumerate(self._offsets[:, r, c].tolist()):
                    yield number, (offset, rows, columns), (down, right)

    def _write(self, values: NDArray[Any], offset: int) -> None:
        left = values.data.cast("B")
        while left:  # a system call may write less than it was given
            count = os.pwrite(self._file, left, offset)
            left, offset = left[count:], offset + count

    def _read(self, count: int, offset: int) -> bytes:
        raw = os.pread(self._file, count, offset)
        if len(raw) < count:
            raise OSError(errno.EIO, "the file ends early", str(self.file))
        return raw


def sync(file: int) -> None:
    """Return when what was written to a file will survive a loss of power."""
    getattr(os, "fdatasync", os.fsync)(file)  # macOS has only the latter


def plain_bytes(layer: Layer) -> int:
    """Return the size of the plain file, head and directory aside."""
    side = _side(layer)
    rows, columns = -(-layer.grid.height // side), -(-layer.grid.width // side)
    return layer.bands * rows * columns * (side * side * layer.stored.itemsize + 16)


def _side(layer: Layer) -> int:
    return min(_TILE, -(-max(layer.grid.shape) // 16) * 16)  # TIFF wants multiples of 16


def _cut(start: int, pixels: int, side: int) -> Iterator[tuple[int, slice, slice]]:
    """Cut pixels of an axis at tiles: number of the tile, which of the pixels, which of the tile."""
    stop = start + pixels
    for number in range(start // side, -(-stop // side)):
        first, last = max(start, number * side), min(stop, (number + 1) * side)
        if first < last:
            yield number, slice(first - start, last - start), slice(first - number * side, last - number * side)


def _tiles_of(file: Path, layer: Layer) -> tuple[int, NDArray[np.int64]]:
    """Return the pixels on a side of a tile, and the offsets (bands, tile rows, tile columns) of all tiles."""
    try:
        with quiet_georeference(), rasterio.open(file) as src:
            side = src.block_shapes[0][0]
            if (src.count, src.shape, src.dtypes[0]) != (layer.bands, layer.grid.shape, layer.profile["dtype"]):
                raise ValueError("it is of another raster")
        offsets = _tile_offsets(file)
    except (OSError, struct.error, *GDAL_ERRORS) as error:
        raise ValueError(f"{file}: missing or damaged ({reason(error)})") from error
    rows, columns = -(-layer.grid.height // side), -(-layer.grid.width // side)
    tile = side * side * layer.stored.itemsize
    if len(offsets) != layer.bands * rows * columns or offsets.min() <= 0 or offsets.max() + tile > file.stat().st_size:
        raise ValueError(f"{file}: damaged or incomplete")
    return side, offsets.reshape(layer.bands, rows, columns)


def _tile_offsets(file: Path) -> NDArray[np.int64]:
    """Read tag 324 of the first directory of a little-endian BigTIFF: GDAL would tell them one by one, and there are millions."""
    with file.open("rb") as raw:
        order, version, size, _, directory = struct.unpack("<2sHHHQ", raw.read(16))
        if (order, version, size) != (b"II", 43, 8):
            raise ValueError(f"{file}: not a BigTIFF, or damaged")
        raw.seek(directory)
        for _ in range(struct.unpack("<Q", raw.read(8))[0]):
            tag, kind, count, value = struct.unpack("<HHQ8s", raw.read(20))
            if tag == _TILE_OFFSETS:
                width = "<u8" if kind == _LONG8 else "<u4"
                if count * np.dtype(width).itemsize <= len(value):
                    return np.frombuffer(value, width, count).astype(np.int64)
                raw.seek(struct.unpack("<Q", value)[0])
                return np.fromfile(raw, width, count).astype(np.int64)
    raise ValueError(f"{file}: not tiled, or damaged")
