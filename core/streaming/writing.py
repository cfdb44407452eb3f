"""Finished parts are handed to the sink in a thread of its own, in order, and none after one that failed."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from numpy.typing import NDArray

from .plan import Area

T = TypeVar("T")
_HELD = 2  # parts that wait for the disk or are on their way to it


@dataclass(frozen=True, eq=False)
class Finished:
    """What is known of some pixels of the result.

    Args:
        arrays: by the name of the raster that they belong to, (bands, height, width).
        facts: what is to be known of them in the end, such as counts; JSON.
    """

    arrays: Mapping[str, NDArray[Any]]
    facts: Mapping[str, Any] = field(default_factory=dict)


class Sink(Protocol):
    """Takes finished pixels, in the order of the parts."""

    @property
    def done(self) -> int:
        """Parts that were finished before, in an earlier run."""
        ...

    def write(self, part: int, area: Area, finished: Finished) -> None:
        """Keep what a part finished; called in a thread of its own, one part at a time."""
        ...


class InMemory:
    """A sink that holds the result.

    Args:
        arrays: (channels, height, width) of the whole result, by the names of what is finished. What is written is cast to their
            types. They may be views of arrays with other axes.
    """

    done = 0

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.arrays = dict(arrays)

    @property
    def nbytes(self) -> int:
        """Bytes of all."""
        return sum(array.nbytes for array in self.arrays.values())

    def write(self, part: int, area: Area, finished: Finished) -> None:
        """Keep what a part finished."""
        del part
        rows, columns = slice(area.row, area.row + area.height), slice(area.column, area.column + area.width)
        for name, array in self.arrays.items():
            array[:, rows, columns] = finished.arrays[name]


@contextmanager
def writing_to(sink: Sink) -> Iterator["Writing"]:
    """Write while others compute. When an error of theirs passes, what is held is written; after one of its own, nothing more."""
    with ThreadPoolExecutor(1, "write") as thread:
        writing = Writing(sink, thread)
        yield writing
        writing.finish()


class Writing:
    """What is on its way to the sink."""

    def __init__(self, sink: Sink, thread: ThreadPoolExecutor) -> None:
        self._sink = sink
        self._thread = thread
        self._held: deque[Future[None]] = deque()
        self._failed = False

    def add(self, part: int, area: Area, finish: Callable[[], Finished]) -> None:
        """Have a part made ready and written; waits while too many are held.

        Raises:
            Exception: what an earlier one failed with.
        """
        while len(self._held) >= _HELD:
            self._held.popleft().result()
        self._held.append(self._thread.submit(self._write, part, area, finish))

    def _write(self, part: int, area: Area, finish: Callable[[], Finished]) -> None:
        if self._failed:  # the sink knows a prefix of the parts, so none may be missing in it
            return
        try:
            self._sink.write(part, area, finish())
        except BaseException:
            self._failed = True
            raise

    def check(self) -> None:
        """Raise what writing failed with, if it has."""
        for future in [future for future in self._held if future.done()]:
            future.result()

    def finish(self) -> None:
        """Wait until all is written, or raise what writing failed with."""
        while self._held:
            self._held.popleft().result()

    def wait_for(self, future: Future[T]) -> T:
        """Return what another stage makes, or raise as soon as it or writing fails."""
        while not future.done():
            self.check()
            both: list[Future[Any]] = [future, *(held for held in self._held if not held.done())]
            wait(both, return_when=FIRST_COMPLETED)
        self.check()
        return future.result()
