"""Points that are not needed for now, on disk."""

import os
import tempfile
from array import array
from pathlib import Path
from types import TracebackType

import numpy as np

from .rings import Points

_BYTES = 8  # of a point, two int32

Segments = array  # of int64: offset and number of points, in turn


class Spill:
    """An unnamed temporary file of points, which only grows; gone when it is closed or the process ends.

    Args:
        folder: where there is room for 8 bytes for each corner of a polygon that spans strips.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__
        self._points = 0

    def __enter__(self) -> "Spill":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def append(self, points: Points) -> int:
        """Keep points, and return the offset of the first."""
        offset = self._points
        self._file.seek(0, os.SEEK_END)
        self._file.write(np.ascontiguousarray(points, dtype=np.int32).data)
        self._points += len(points)
        return offset

    def read(self, segments: "Segments[int]") -> Points:
        """Return the points of several segments, one after the other."""
        self._file.flush()
        offsets, counts = segments[::2], segments[1::2]
        points = np.empty((sum(counts), 2), np.int32)
        view = memoryview(points.reshape(-1).view(np.uint8))
        at = 0
        for offset, count in zip(offsets, counts, strict=True):
            self._file.seek(offset * _BYTES)
            at += self._file.readinto(view[at : at + count * _BYTES])  # type: ignore[attr-defined]
        return points
