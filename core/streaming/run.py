"""Parts are read ahead, computed, blended in order and handed on, at the same time."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from ..memory import give_freed_memory_back
from .blend import Blend
from .plan import Area, Part, Plan
from .writing import Finished, InMemory, Sink, writing_to

__all__ = ["Finished", "InMemory", "Job", "Ready", "Sink", "Tick", "Worker", "one_thread_each", "run"]

Data = TypeVar("Data")
Tick = Callable[[int, int], None]  # parts done, parts in all
_AHEAD = 2  # parts that are read before they are needed


class Worker(Protocol[Data]):
    """Makes results of parts. Nothing of one part may depend on another, so that parts can be computed anywhere and again.

    All of it is called in threads: ``read`` and ``finish`` in one each, ``compute`` in as many as compute at the same time.
    """

    def read(self, part: Part) -> Data:
        """Read what a part looks at; called ahead of ``compute``."""
        ...

    def compute(self, data: Data, part: Part) -> NDArray[np.float32]:
        """Return the part's used pixels (channels, height, width), in pixels of the result; NaN where there is no data."""
        ...

    def finish(self, values: NDArray[np.float32], area: Area) -> Finished:
        """Turn blended values into what is written; the area is of the result."""
        ...


@runtime_checkable
class Stopping(Protocol):
    """A worker that need not compute a part to its end, which may take minutes, when nobody wants it any more."""

    def stop(self) -> None:
        """Have ``compute`` end soon, with any result or error; called in another thread than that."""
        ...


class Job(Protocol[Data]):
    """Says how a worker is made. It is sent to other processes: it holds paths and settings, no open files."""

    def open(self) -> Worker[Data]:
        """Load the model and open the files."""
        ...


@dataclass(frozen=True)
class Ready(Generic[Data]):
    """A job whose worker is there already: for what is in memory, and goes to no other process."""

    worker: Worker[Data]

    def open(self) -> Worker[Data]:
        """Return it."""
        return self.worker


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Have torch compute each part with one thread.

    How products are cut among threads changes the order of their sums, and with it the last digits of the results. With one
    thread for a part these are the same on any number of cores and in any number of processes.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run(plan: Plan, job: Job[Any], sink: Sink, *, threads: int | None = 1, tick: Tick | None = None) -> None:
    """Compute what is not done yet.

    Memory holds ``threads + 2`` parts, each as it was read or computed, and two that are written. What is computed does not
    depend on ``threads``: each of them computes a part of its own.

    If anything fails or is interrupted, reading and computing stop after what they are at, or earlier if the worker is
    ``Stopping``; all parts that were handed on before are written, and no thread is left.

    Args:
        plan: of the parts.
        job: what to do with them.
        sink: takes them.
        threads: that compute a part each at the same time: as many as there are cores, or one for a GPU. None: one part after
            the other, by all threads of torch, for few parts whose last digits may depend on the machine.
        tick: told after each part.
    """
    if sink.done == len(plan):
        return
    worker = job.open()
    blend = Blend(plan) if plan.fade else None
    again = plan.again(sink.done)
    coming = iter([*again, *(plan.part(index) for index in range(sink.done, len(plan)))])
    first = sink.done
    at_once = threads or 1
    with (
        nullcontext() if threads is None else one_thread_each(),
        writing_to(sink) as writing,
        _pool(1, "read") as reading,
        _pool(at_once, "compute") as computing,
        _stopped_by_errors(worker),
    ):
        ahead: deque[tuple[Part, Future[NDArray[np.float32]]]] = deque()
        while True:
            for part in islice(coming, at_once + _AHEAD - len(ahead)):
                data = reading.submit(worker.read, part)
                ahead.append((part, computing.submit(_compute, worker, part, data)))
            if not ahead:
                return
            part, future = ahead.popleft()
            values = writing.wait_for(future)
            del future
            give_freed_memory_back()  # what threads free in pieces would add up over the parts of a large image
            if blend is not None:
                values = blend.add(part, values)
            if part.index >= first:
                area, (rows, columns) = plan.place(part)
                writing.add(part.index, area, partial(worker.finish, values[:, rows, columns], area))
                del values  # which is not to be held until the next is there
                if tick is not None:
                    tick(part.index + 1, len(plan))


@contextmanager
def _pool(threads: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Threads that end, when an error passes, after what they are at."""
    # Torch tells MKL of its number of threads when it next cuts work up: a thread's first products would come before.
    pool = ThreadPoolExecutor(threads, name, torch.set_num_threads, (torch.get_num_threads(),))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _stopped_by_errors(worker: Worker[Any]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if isinstance(worker, Stopping):
            worker.stop()
        raise


def _compute(worker: Worker[Data], part: Part, data: Future[Data]) -> NDArray[np.float32]:
    return worker.compute(data.result(), part)
