"""Reading voxels from files that may claim any size and end anywhere."""

import bz2
import gzip
import io
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

GZIP_MAGIC = b"\x1f\x8b"
BZIP2_MAGIC = b"BZh"
_CHUNK = 2**24  # bytes
# The most that a byte of a compressed file can stand for: deflate 1032, the others by what their most extreme files hold.
_MOST = {"gzip": 1032, "bzip2": 20000, "compressed": 20000}
_DAMAGES = (EOFError, zlib.error, gzip.BadGzipFile, OSError)


def compression(head: bytes) -> str:
    """Return "gzip", "bzip2" or "raw", told by a file's first bytes."""
    return "gzip" if head.startswith(GZIP_MAGIC) else "bzip2" if head.startswith(BZIP2_MAGIC) else "raw"


@contextmanager
def decompressed(file: IO[bytes], encoding: str) -> Iterator[IO[bytes]]:
    """Yield what ``file`` holds from where it stands, decompressed."""
    if encoding == "raw":
        yield file
        return
    opened: Any = gzip.GzipFile(fileobj=file, mode="rb") if encoding == "gzip" else bz2.BZ2File(file, "rb")
    with opened, io.BufferedReader(opened) as stream:
        yield stream


def read_head(stream: IO[bytes], count: int, path: Path) -> bytes:
    """Read ``count`` bytes, or fewer at the end of the file.

    Raises:
        ValueError: damaged compression.
    """
    try:
        return stream.read(count)
    except _DAMAGES as error:
        raise ValueError(f"{path}: truncated or damaged ({' '.join(str(error).split())})") from error


def require_room(shape: tuple[int, ...], dtype: np.dtype[Any], available: int, encoding: str, path: Path) -> None:
    """Refuse a header that claims more voxels than the file can hold, before memory is asked for.

    Raises:
        ValueError: sizes below one, or more voxels than fit.
    """
    sizes = " x ".join(map(str, shape))
    if not shape or min(shape) < 1:
        raise ValueError(f"{path}: its header states sizes {sizes or '(none)'}, expected at least one voxel on each axis")
    claimed = math.prod(shape) * dtype.itemsize
    if claimed > available * _MOST.get(encoding, 1):
        raise ValueError(
            f"{path}: truncated, or its header is damaged: {sizes} voxels of {dtype} need {claimed} bytes, "
            f"the file holds {max(available, 0)}" + ("" if encoding == "raw" else f" ({encoding})")
        )


def read_voxels(stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any], path: Path) -> NDArray[Any]:
    """Read voxels whose first axis runs fastest, in the machine's byte order; memory grows with what is really there.

    Raises:
        ValueError: the stream ends early or is damaged, or the voxels do not fit into memory.
    """
    count = math.prod(shape)
    try:
        voxels = np.empty(count, dtype)
    except MemoryError as error:
        raise ValueError(f"{path}: {' x '.join(map(str, shape))} voxels of {dtype} do not fit into memory") from error
    view = memoryview(voxels.view(np.uint8))  # type: ignore[arg-type]
    done = 0
    try:
        while done < len(view):
            got = stream.readinto(view[done : done + _CHUNK])  # type: ignore[attr-defined]
            if not got:
                raise ValueError(f"{path}: truncated: {len(view)} bytes of voxels expected, {done} found")
            done += got
    except _DAMAGES as error:
        raise ValueError(
            f"{path}: truncated or damaged after {done} of {len(view)} bytes ({' '.join(str(error).split())})"
        ) from error
    if not dtype.isnative:
        voxels = voxels.byteswap(inplace=True).view(dtype.newbyteorder("="))
    return voxels.reshape(shape, order="F")


def skip(stream: IO[bytes], count: int, path: Path) -> None:
    """Read past ``count`` bytes.

    Raises:
        ValueError: the stream ends before.
    """
    while count > 0:
        got = len(read_head(stream, min(count, _CHUNK), path))
        if not got:
            raise ValueError(f"{path}: truncated: it ends {count} bytes before its voxels start")
        count -= got
