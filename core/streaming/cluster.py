"""Parts computed by the workers of a Dask cluster: processes of this machine, or of any that a scheduler knows.

A worker reads, computes and, where parts do not fade into each other, finishes them, so that little travels. Results are taken in
the order of the parts: what is written, and its bytes, are as on one machine. Dask runs the parts of a lost worker again.
"""

import logging
import os
import re
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import version
from threading import Event, Lock
from time import sleep
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from distributed import Client, Future, Nanny, Scheduler, SpecCluster, get_worker
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.scheduler import KilledWorker
from numpy.typing import NDArray

from .blend import Blend
from .plan import Area, Part, Plan
from .run import Job, Tick, Worker
from .writing import Finished, Sink, Writing, writing_to

_EACH = 3  # parts that a worker has: one that it computes and two that wait for it, or for their turn to be written
_DEATHS = 4  # workers that may end while a part is theirs. It may be a neighbour in the queue that ends them, so more than one.
_CONNECTING = 15  # seconds to wait for a scheduler
_PATIENCE = 60  # seconds to wait for a first worker, or for new ones when all were lost


def local_workers(address: str) -> int | None:
    """Return N of ``local:N``, None for the address of a scheduler.

    Raises:
        ValueError: it is neither.
    """
    local = re.fullmatch(r"local:([1-9]\d*)", address)
    if local:
        return int(local[1])
    if re.fullmatch(r"(tcp|tls|ucx|ws|wss)://.+", address):
        return None
    raise ValueError(f"dask is {address!r}, expected local:N with a number of processes, or a scheduler such as tcp://host:8786")


def run_on_cluster(
    plan: Plan,
    job: Job[Any],
    sink: Sink,
    address: str,
    *,
    environment: Mapping[str, str] | None = None,
    tick: Tick | None = None,
) -> None:
    """Compute on a cluster what is not done yet.

    Args:
        plan: of the parts.
        job: what to do with them; its paths must be good on the workers' machines, too.
        sink: takes them, in this process.
        address: ``local:N`` for N processes of one thread here, which are ended afterwards; worker ``i`` sees GPU ``i`` modulo
            their number, if there are any. Else the address of a scheduler.
        environment: of processes here, where a variable is not set already.
        tick: told after each part.

    Raises:
        ValueError: it is no such address, or workers have another version of geovit.
        OSError: no scheduler or worker is there, the connection was lost, or a part ended all workers that tried it.
    """
    count = local_workers(address)
    if sink.done == len(plan):
        return
    with (
        _local(count, environment or {}) if count is not None else _remote(address) as client,
        _plugged(client, job, plan) as name,
    ):
        _run(plan, job, sink, client, name, tick)


def _run(plan: Plan, job: Job[Any], sink: Sink, client: Client, name: str, tick: Tick | None) -> None:
    blend, finisher = (Blend(plan), job.open()) if plan.fade else (None, None)
    again = plan.again(sink.done)
    first = sink.done
    indices = iter([*(part.index for part in again), *range(first, len(plan))])
    with writing_to(sink) as writing:
        ahead: deque[tuple[Part, Future]] = deque()
        while True:
            while len(ahead) < _EACH * _threads(client) and (index := next(indices, None)) is not None:
                ahead.append((plan.part(index), client.submit(_made, name, index, pure=False)))
            if not ahead:
                return
            part, future = ahead.popleft()
            made = _result(future, part, plan, writing)
            future.release()
            if blend is not None and finisher is not None:
                made = blend.add(part, made)
                area, (rows, columns) = plan.place(part)
                finish = partial(finisher.finish, made[:, rows, columns], area)
            else:
                area, finish = made[0], partial(_as_is, made[1])
            if part.index >= first:
                writing.add(part.index, area, finish)
                del made, finish  # which are not to be held until the next are there
                if tick is not None:
                    tick(part.index + 1, len(plan))


def _as_is(finished: Finished) -> Finished:
    return finished


def _threads(client: Client) -> int:
    """Of all workers; those lost come back, so at least one."""
    return max(sum(map(int, client.nthreads().values())), 1)


def _result(future: Future, part: Part, plan: Plan, writing: Writing) -> Any:
    made = Event()
    future.add_done_callback(lambda _: made.set())
    while not made.wait(0.5) or future.status == "lost":
        if future.status == "lost":  # with the worker that had made it: it is made again
            sleep(0.1)
        writing.check()
        _need_workers(future.client)
    writing.check()
    if future.status == "cancelled":
        raise OSError(f"{future.client.scheduler.address}: the connection to the scheduler was lost")
    try:
        return future.result()
    except KilledWorker as error:
        raise OSError(
            f"part {part.index + 1} of {len(plan)}, rows {part.rows.start} to {part.rows.stop}, columns {part.columns.start} "
            f"to {part.columns.stop}, was lost with {error.allowed_failures + 1} workers, which may be short of memory: "
            "lower max_memory or the number of workers"
        ) from None


def _need_workers(client: Client) -> None:
    if client.nthreads():
        return
    try:
        client.wait_for_workers(1, timeout=_PATIENCE)
    except TimeoutError:
        raise OSError(f"{client.scheduler.address}: there has been no worker for {_PATIENCE} seconds") from None


@contextmanager
def _local(count: int, environment: Mapping[str, str]) -> Iterator[Client]:
    """Processes of this machine, which Dask starts anew when they are lost; what they write lies in a temporary folder."""
    import dask

    missing = {name: value for name, value in environment.items() if name not in os.environ}
    quiet = {"silence_logs": logging.CRITICAL}  # errors of a part are raised here
    with (
        tempfile.TemporaryDirectory(prefix="geovit-dask-", ignore_cleanup_errors=True) as folder,
        dask.config.set({"distributed.scheduler.allowed-failures": _DEATHS, "distributed.scheduler.http.routes": []}),
    ):
        # The plan bounds memory, so Dask need not, nor put aside what it takes to be too much.
        scheduler = {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0", "dashboard": False}
        options = {"nthreads": 1, "memory_limit": 0, "local_directory": folder, "dashboard": False, **quiet}
        with (
            SpecCluster(
                scheduler={"cls": Scheduler, "options": scheduler},
                workers={i: {"cls": Nanny, "options": {**options, "env": {**missing, **gpu_of(i)}}} for i in range(count)},
                **quiet,
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield client


def gpu_of(index: int) -> dict[str, str]:
    """Return what a process must find in its environment to see one GPU only: by its number, modulo that of GPUs."""
    if not torch.cuda.is_available():
        return {}
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = chosen.split(",") if chosen else [str(gpu) for gpu in range(torch.cuda.device_count())]
    return {"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]}


@contextmanager
def _remote(address: str) -> Iterator[Client]:
    try:
        client = Client(address, set_as_default=False, timeout=_CONNECTING)
    except OSError as error:
        raise OSError(f"{address}: no scheduler answers ({error})") from None
    with client:
        yield client


@contextmanager
def _plugged(client: Client, job: Job[Any], plan: Plan) -> Iterator[str]:
    """Give the job to all workers, those that come later too, for as long as the run lasts.

    A plugin has the life that a loaded model needs: one for each process, there before the first part, also in a process that
    replaces a lost one, and gone with its memory at the end of the run.
    """
    _need_workers(client)
    name = f"geovit-{uuid4().hex}"
    client.register_plugin(_Opening(job, plan, version("geovit")), name=name)
    try:
        yield name
    finally:
        with suppress(OSError, TimeoutError):  # the scheduler is gone already
            client.unregister_worker_plugin(name)


class _Opening(WorkerPlugin):  # type: ignore[misc]
    """Opens the job in a worker's process when the first part comes. If it has many threads, one computes while others read."""

    def __init__(self, job: Job[Any], plan: Plan, version: str) -> None:
        self.job, self.plan, self.version = job, plan, version

    def setup(self, worker: Any) -> None:
        """Make what does not travel."""
        self.opening, self.computing = Lock(), Lock()
        self.opened: Worker[Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"job": self.job, "plan": self.plan, "version": self.version}

    def open(self) -> Worker[Any]:
        """Open the job, once."""
        with self.opening:
            if self.opened is None:
                found = version("geovit")
                if found != self.version:
                    raise ValueError(f"worker {get_worker().address} has geovit {found}, expected {self.version} as here")
                self.opened = self.job.open()
            return self.opened


def _made(name: str, index: int) -> NDArray[np.float32] | tuple[Area, Finished]:
    """Make a part in a worker: its values if they are to be blended, else what is to be written."""
    opening: _Opening = get_worker().plugins[name]
    torch.set_num_threads(1)  # as in ``one_thread_each``
    worker, plan = opening.open(), opening.plan
    part = plan.part(index)
    data = worker.read(part)
    with opening.computing:
        values = worker.compute(data, part)
    if plan.fade:
        return values
    area, (rows, columns) = plan.place(part)
    return area, worker.finish(values[:, rows, columns], area)
