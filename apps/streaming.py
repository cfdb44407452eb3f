"""What commands on scenes have in common: choose parts that fit memory, carry a run out, go on with one that was cut off."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..core.memory import bytes_allowed, memory_limit, used_bytes
from ..core.streaming.plan import Plan
from ..core.streaming.run import Job, run
from ..datasets.growing import CACHE_BYTES, GrowingRasters, Layer

OF_THE_RUN = ("plan", "resume", "dask", "overwrite", "progress", "max_memory")  # parameters that do not decide the result


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a command goes through scenes: options that all such commands have, as `geovit classify --help` tells.

    Raises:
        ValueError: ``max_memory`` is no number of gigabytes.
    """

    bounds: str | None = None
    max_memory: float | None = None
    resume: bool = False
    overwrite: bool = False
    dask: str | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        bytes_allowed(self.max_memory)

    def passes_over(self, target: Path) -> bool:
        """Whether an earlier run has made this result, so that one that resumes has nothing left to do for it."""
        return self.resume and not self.overwrite and target.exists() and not unfinished_folder(target).exists()


def unfinished_folder(target: Path) -> Path:
    """Return where an unfinished run keeps what it has, by its first result."""
    return target.with_name(f".{target.name}.unfinished")


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
    earlier = None if unfinished is None else earlier_side(unfinished)
    if earlier is not None:
        return earlier
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


def earlier_side(unfinished: Path) -> int | None:
    """Return the side of the parts of a run that can be gone on with; None if there is none in that folder."""
    earlier = GrowingRasters.unfinished(unfinished)
    return int(earlier["side"]) if earlier is not None and isinstance(earlier.get("side"), int) else None


def _room(max_memory: float | None) -> tuple[float, float]:
    """Bytes that the process may take beside what it holds, and in all."""
    cpu = torch.device("cpu")
    limit = memory_limit(cpu, bytes_allowed(max_memory))
    return limit - used_bytes(cpu), limit


@contextmanager
def carried_out(
    plan: Plan,
    job: Job[Any] | Callable[[GrowingRasters], Job[Any]],
    layers: Mapping[str, Layer],
    *,
    folder: Path,
    identity: Mapping[str, Any],
    how: RunOptions,
    others: Mapping[str, Path] | None = None,
    threads: int = 1,
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
        how: it is gone through; the bounds are in the plan already.
        others: further files of the result.
        threads: that compute a part each at the same time, if it is done here: ``compute_threads`` tells. The result does not
            depend on it, for torch is given one thread for each part meanwhile.
        label: of the bar.
    """
    known = {**identity, "side": plan.side}
    with GrowingRasters.open(
        folder, layers, others=others, job=known, parts=len(plan), resume=how.resume, overwrite=how.overwrite
    ) as rasters:
        task = job(rasters) if callable(job) else job
        with _bars(label, how.progress) as bar:
            tick = bar("parts", rasters.done, len(plan))
            if how.dask is None:
                run(plan, task, rasters, threads=threads, tick=tick)
            else:
                from ..core.streaming.cluster import run_on_cluster

                run_on_cluster(plan, task, rasters, how.dask, environment={"GDAL_CACHEMAX": str(CACHE_BYTES >> 20)}, tick=tick)
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
