"""What commands on scenes have in common: forecast a run, carry it out part by part, go on with one that was cut off."""

import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.memory import memory_limit, peak_bytes, used_bytes
from ..core.streaming.plan import Part, Plan
from ..core.streaming.run import Finished, Job, Worker, one_thread_each, run
from ..datasets.growing import CACHE_BYTES, GrowingRasters, Layer

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

OF_THE_RUN = ("plan", "resume", "dask", "overwrite", "progress", "max_memory")  # parameters that do not decide the result

_QUICK = 2.0  # seconds: a part that takes less is computed twice, because the first time pays for what is made once
_OVERVIEWS = 4 / 3  # what a raster and its overviews take, of the raster alone
_LOOKED_AT = 5  # parts that are tried for one with data


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What ``--plan`` prints: a run that is not carried out.

    Args:
        parts: how many.
        side: pixels on a side of a part.
        memory: bytes that the process is expected to take at its peak.
        seconds: expected, from one part that was read and computed for this.
        work_bytes: on disk while it runs.
        result_bytes: of the results with overviews, from how well that part can be compressed.
    """

    parts: int
    side: int
    memory: float
    seconds: float
    work_bytes: int
    result_bytes: int

    def __rich__(self) -> "Table":
        from rich.table import Table

        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_row("parts", f"{self.parts:,}, each up to {self.side:,} x {self.side:,} pixels with what lies around it")
        table.add_row("memory", f"about {self.memory / 1e9:.2f} GB at the peak")
        table.add_row("time", f"about {_duration(self.seconds)}, from one part that was read and computed")
        table.add_row("disk", f"{_size(self.work_bytes)} while it runs, about {_size(self.result_bytes)} of results")
        table.add_row("", "nothing was written")
        return table


@dataclass(frozen=True, eq=False)
class Planned:
    """What several runs would take, by scene."""

    forecasts: dict[Path, Forecast]

    def __rich__(self) -> "Group":
        from rich.console import Group

        return Group(*(part for source, told in self.forecasts.items() for part in (str(source), told)))


def unfinished_folder(target: Path) -> Path:
    """Return where an unfinished run keeps what it has, by its first result."""
    return target.with_name(f".{target.name}.unfinished")


@contextmanager
def output_folder(out: Path | None) -> Iterator[None]:
    """Make the folder that results go to, if there is none; if nothing comes to lie in it, it goes again.

    Raises:
        OSError: it cannot be made.
    """
    if out is None or out.exists():
        yield
        return
    try:
        out.mkdir(parents=True)
    except OSError as error:
        raise OSError(f"cannot make the folder {out}: {error.strerror}") from error
    try:
        yield
    finally:
        with suppress(OSError):  # it holds results, or what an unfinished run has
            out.rmdir()


def forecast(
    plan: Plan, job: Job[Any], layers: Mapping[str, Layer], *, memory: float, threads: int = 1, dask: str | None = None
) -> Forecast:
    """Read and compute one part, write nothing, and tell what the whole will take.

    Args:
        plan: of the parts; that in the middle is computed, or another if it holds no data.
        job: what to do with them.
        layers: the rasters.
        memory: bytes that the process is expected to take at its peak; what the part took counts if it is more.
        threads: that compute a part each at the same time.
        dask: ``local:N``, of which each computes parts; for the address of a scheduler, the time is that of one worker.
    """
    at_once = threads
    if dask is not None:
        from ..core.streaming.cluster import local_workers

        at_once = local_workers(dask) or 1
    worker = job.open()
    with one_thread_each():
        part, seconds, values = _measured(worker, plan)
    area, (rows, columns) = plan.place(part)
    started = time.perf_counter()
    finished = worker.finish(values[:, rows, columns], area)
    share = _compressed(finished, layers)
    seconds += time.perf_counter() - started
    height, width = (sum(tile.stop - tile.start for tile in tiles) for tiles in (plan.rows, plan.columns))
    looked_at = (part.rows.stop - part.rows.start) * (part.columns.stop - part.columns.start)
    plain = {name: _plain_bytes(layer) for name, layer in layers.items()}
    result = sum(_OVERVIEWS * size * share.get(name, 1.0) for name, size in plain.items())
    return Forecast(
        parts=len(plan),
        side=plan.side,
        memory=max(memory, peak_bytes(torch.device("cpu"))),
        seconds=seconds * height * width / looked_at / min(at_once, len(plan)),
        work_bytes=int(sum(plain.values()) + result),
        result_bytes=int(result),
    )


def _measured(worker: Worker[Any], plan: Plan) -> tuple[Part, float, NDArray[np.float32]]:
    """Read and compute a part that holds data, if one of the few that are tried does; with the seconds that it took."""
    middle = len(plan.rows) // 2 * len(plan.columns) + len(plan.columns) // 2
    spread = [len(plan) * step // _LOOKED_AT for step in range(_LOOKED_AT)]
    for index in dict.fromkeys([middle, *spread]):
        part = plan.part(index)
        started = time.perf_counter()
        data = worker.read(part)
        read = time.perf_counter() - started
        started = time.perf_counter()
        values = worker.compute(data, part)
        computed = time.perf_counter() - started
        if np.isfinite(values).any():
            break
    if computed < _QUICK:
        started = time.perf_counter()
        values = worker.compute(data, part)
        computed = time.perf_counter() - started
    return part, read + computed, values


def _compressed(finished: Finished, layers: Mapping[str, Layer]) -> dict[str, float]:
    """By how much the arrays of a part shrink."""
    stored = {name: np.asarray(array).astype(layers[name].dtype) for name, array in finished.arrays.items()}
    return {name: len(zlib.compress(array.tobytes())) / max(array.nbytes, 1) for name, array in stored.items()}


def _plain_bytes(layer: Layer) -> int:
    return layer.bands * layer.grid.height * layer.grid.width * np.dtype(layer.dtype).itemsize


def _size(count: float) -> str:
    unit, name = next(((unit, name) for unit, name in ((1e9, "GB"), (1e6, "MB")) if count >= unit), (1e3, "kB"))
    return f"{count / unit:.1f} {name}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{max(whole, 1)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def compute_threads(device: torch.device, bytes_of: Callable[[int], float], *, max_memory: float | None) -> int:
    """Return how many parts to compute at the same time: one on a GPU, else as many as torch has threads and memory allows.

    Each part is computed by one thread, so that the result does not depend on the number of cores: see ``carried_out``.

    Args:
        device: that computes.
        bytes_of: what the process takes beside what it holds now, by the number, with parts of a size that still pays.
        max_memory: as in ``largest_side``.
    """
    if device.type != "cpu":
        return 1
    room, _ = _room(max_memory)
    return next((count for count in range(torch.get_num_threads(), 1, -1) if bytes_of(count) <= room), 1)


def largest_side(
    bytes_of: Callable[[int], float],
    *,
    max_memory: float | None,
    multiple: int,
    largest: int,
    preferred: int | None = None,
    unfinished: Path | None = None,
) -> int:
    """Return the largest side of parts that memory allows.

    Args:
        bytes_of: what the process takes beside what it holds now, by the side.
        max_memory: gigabytes (10^9 bytes) that the process may take at the most. None: the default of ``core.memory``.
        multiple: of sides, and the smallest.
        largest: that may be chosen, if it is a multiple.
        preferred: of which the side is a multiple, too, unless memory allows no such side.
        unfinished: folder of a run to go on with, if there is one: its side is taken, for the default of memory depends on what
            else the machine does.

    Raises:
        ValueError: if memory does not suffice for the smallest.
    """
    earlier = None if unfinished is None else GrowingRasters.unfinished(unfinished)
    if earlier is not None and isinstance(earlier.get("side"), int):
        return int(earlier["side"])
    room, limit = _room(max_memory)
    side = max(largest // multiple, 1) * multiple
    while bytes_of(side) > room:
        if side == multiple:
            raise ValueError(
                f"parts of {side} pixels, the smallest possible, need {(limit - room + bytes_of(side)) / 1e9:.2f} GB; "
                f"allowed are {limit / 1e9:.2f} GB"
            )
        side -= multiple
    return side if preferred is None or side < preferred else side // preferred * preferred


def _room(max_memory: float | None) -> tuple[float, float]:
    """Bytes that the process may take beside what it holds, and in all."""
    if max_memory is not None and not max_memory > 0:
        raise ValueError(f"max_memory is {max_memory:g}, expected gigabytes above 0")
    cpu = torch.device("cpu")
    limit = memory_limit(cpu, None if max_memory is None else max_memory * 1e9)
    return limit - used_bytes(cpu), limit


@contextmanager
def carried_out(
    plan: Plan,
    job: Job[Any] | Callable[[GrowingRasters], Job[Any]],
    layers: Mapping[str, Layer],
    *,
    folder: Path,
    identity: Mapping[str, Any],
    others: Mapping[str, Path] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    dask: str | None = None,
    threads: int = 1,
    progress: bool = False,
    label: str = "",
) -> Iterator[GrowingRasters]:
    """Carry a run out and make its rasters; in the block the caller writes the other files; after it all appear.

    Whatever stops it once a part is finished, ``GrowingRasters`` says in a line how to go on.

    Args:
        plan: of the parts.
        job: what to do with them; or a function that makes it before the first part, and keeps (``GrowingRasters.keep``) what an
            unfinished run needs to go on, such as a fitted model.
        layers: the rasters.
        folder: of the unfinished run.
        identity: what decides the result, see ``GrowingRasters.open``; the side of parts is added.
        others: further files of the result.
        resume: go on with an unfinished run.
        overwrite: replace results.
        dask: ``local:N`` or the address of a scheduler, ``tcp://...``: parts are computed there.
        threads: that compute a part each at the same time, if it is done here: ``compute_threads`` tells. The result does not
            depend on it, for torch is given one thread for each part meanwhile.
        progress: show a bar.
        label: of the bar.
    """
    known = {**identity, "side": plan.side}
    with GrowingRasters.open(
        folder, layers, others=others, job=known, parts=len(plan), resume=resume, overwrite=overwrite
    ) as rasters:
        task = job(rasters) if callable(job) else job
        with _bars(label, progress) as bar:
            tick = bar("parts", rasters.done, len(plan))
            if dask is None:
                run(plan, task, rasters, threads=threads, tick=tick)
            else:
                from ..core.streaming.cluster import run_on_cluster

                run_on_cluster(plan, task, rasters, dask, environment={"GDAL_CACHEMAX": str(CACHE_BYTES >> 20)}, tick=tick)
            rasters.translate(bar("files", 0, None))
        yield rasters
        rasters.publish()


@contextmanager
def _bars(label: str, shown: bool) -> Iterator[Callable[[str, int, int | None], Callable[[int, int], None]]]:
    """Bars with the time left, on standard error, because standard output is for results."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown) as bars:

        def begin(what: str, done: int, total: int | None) -> Callable[[int, int], None]:
            task = bars.add_task(escape(f"{label} {what}".strip()), completed=done, total=total)
            return lambda done, total: bars.update(task, completed=done, total=total)

        yield begin
