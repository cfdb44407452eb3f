"""Points that are not needed for now, on disk."""

import os
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .rings import Points

_BYTES = 8  # of a point, two int32

Segments = array  # of int64: offset and number of points, in turn


class Spill:
    """Points in a file, which only grows.

    Args:
        file: open for reading and writing, empty.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._points = 0

    def append(self, points: Points) -> int:
        """Keep points, and return the offset of the first."""
        offset = self._points
        self._file.seek(0, os.SEEK_END)
        self._file.write(np.ascontiguousarray(points, dtype=np.int32).data)
        self._points += len(points)
        return offset

    def read(self, segments: "Segments[int]") -> Points:
        """Return the points of several segments, one after the other."""
        offsets, counts = segments[::2], segments[1::2]
        points = np.empty((sum(counts), 2), np.int32)
        view = points.reshape(-1).view(np.uint8).data
        at = 0
        for offset, count in zip(offsets, counts, strict=True):
            self._file.seek(offset * _BYTES)
            at += self._file.readinto(view[at : at + count * _BYTES])  # type: ignore[attr-defined]
        return points


@contextmanager
def spilling(folder: Path) -> Iterator[Spill]:
    """Yield room in an unnamed temporary file, which is gone after the block or when the process ends.

    Args:
        folder: with room for 8 bytes for each corner of a polygon that spans strips.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        yield Spill(file)
