"""Parts are read ahead, computed in order, blended and handed on, at the same time."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from .blend import Blend
from .plan import Area, Part, Plan

Data = TypeVar("Data")
Tick = Callable[[int, int], None]  # parts done, parts in all


@dataclass(frozen=True, eq=False)
class Finished:
    """What is known of some pixels of the result.

    Args:
        arrays: by the name of the raster that they belong to, (bands, height, width).
        facts: what is to be known of them in the end, such as counts; JSON.
    """

    arrays: Mapping[str, NDArray[Any]]
    facts: Mapping[str, Any] = field(default_factory=dict)


class Worker(Protocol[Data]):
    """Makes results of parts. Nothing of one part may depend on another, so that parts can be computed anywhere and again."""

    def read(self, part: Part) -> Data:
        """Read what a part looks at; called in a thread of its own, ahead of ``compute``."""
        ...

    def compute(self, data: Data, part: Part) -> NDArray[np.float32]:
        """Return the part's used pixels (channels, height, width), in pixels of the result; NaN where there is no data."""
        ...

    def finish(self, values: NDArray[np.float32], area: Area) -> Finished:
        """Turn blended values into what is written; the area is of the result."""
        ...


class Job(Protocol[Data]):
    """Says how a worker is made. It is sent to other processes: it holds paths and settings, no open files."""

    def open(self) -> Worker[Data]:
        """Load the model and open the files."""
        ...


class Sink(Protocol):
    """Takes finished pixels, in the order of the parts."""

    @property
    def done(self) -> int:
        """Parts that were finished before, in an earlier run."""
        ...

    def write(self, part: int, area: Area, finished: Finished) -> None:
        """Keep what a part finished; called in a thread of its own, one part at a time."""
        ...


def run(plan: Plan, job: Job[Any], sink: Sink, *, tick: Tick | None = None) -> None:
    """Compute what is not done yet. Memory holds two parts that were read, one that is computed and two that are written.

    If anything fails or is interrupted, all parts that were handed to the sink before are written.
    """
    worker = job.open()
    blend = Blend(plan) if plan.fade else None
    again = plan.again(sink.done)
    parts = [*again, *(plan.part(index) for index in range(sink.done, len(plan)))]
    with ThreadPoolExecutor(1, "write") as writing:
        written: list[Future[None]] = []
        for part, values in _computed(worker, parts):
            if blend is not None:
                values = blend.add(part, values)
            if part.index < sink.done:
                continue
            area, (rows, columns) = plan.place(part)
            values = values[:, rows, columns]
            written.append(writing.submit(_write, worker, sink, part.index, area, values))
            if len(written) > 1:
                written.pop(0).result()
            if tick is not None:
                tick(part.index + 1, len(plan))
        for future in written:
            future.result()


def _write(worker: Worker[Any], sink: Sink, index: int, area: Area, values: NDArray[np.float32]) -> None:
    sink.write(index, area, worker.finish(values, area))


def _computed(worker: Worker[Data], parts: Iterable[Part]) -> Iterator[tuple[Part, NDArray[np.float32]]]:
    with ThreadPoolExecutor(1, "read") as reading:
        ahead: list[tuple[Part, Future[Data]]] = []
        coming = iter(parts)
        while True:
            while len(ahead) < 2 and (part := next(coming, None)) is not None:
                ahead.append((part, reading.submit(worker.read, part)))
            if not ahead:
                return
            part, data = ahead.pop(0)
            yield part, worker.compute(data.result(), part)
