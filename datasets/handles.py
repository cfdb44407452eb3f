"""Raster files that stay open between reads."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rasterio.io import DatasetReader

_Key = tuple[str, tuple[int, int, int] | None]  # path and state of the file


@dataclass(eq=False)
class _Idle:
    """Datasets of this process that nobody reads, the longest unused first."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    kept: list[tuple[_Key, DatasetReader]] = field(default_factory=list)


class Handles:
    """Opens rasters and keeps a few of them open, so that neighbouring windows find decoded blocks and no file is opened twice.

    A dataset is used by one thread at a time. Copies that are sent to other processes begin with none, and so does a process
    that was forked: handles share a position in the file, which two processes must not. Files are closed when a read fails and
    when this object goes; a local file that has changed since is opened again.

    Args:
        limit: how many stay open while nobody reads them.
    """

    def __init__(self, limit: int = 4) -> None:
        self.limit = limit
        self._idle: dict[int, _Idle] = {}  # by process: what a parent has opened is left to it

    def __reduce__(self) -> tuple[type["Handles"], tuple[int]]:
        return Handles, (self.limit,)

    @contextmanager
    def borrow(self, path: str, opening: Callable[[str], DatasetReader]) -> Iterator[DatasetReader]:
        """Lend a dataset of a path: one that is open, else what ``opening`` gives."""
        idle = self._idle.setdefault(os.getpid(), _Idle())
        key = path, _state(path)
        with idle.lock:
            at = next((i for i, (known, _) in enumerate(idle.kept) if known == key), None)
            src = None if at is None else idle.kept.pop(at)[1]
        if src is None:
            src = opening(path)
        try:
            yield src
        except BaseException:
            src.close()
            raise
        with idle.lock:
            idle.kept.append((key, src))
            surplus = [idle.kept.pop(0)[1] for _ in range(len(idle.kept) - self.limit)]
        for each in surplus:
            each.close()


def _state(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # what only GDAL knows, or what is not there: opening will tell
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
