"""What a run on scenes will take, told before it is carried out."""

import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.memory import peak_bytes
from ..core.streaming.plan import Part, Plan
from ..core.streaming.run import Finished, Job, Worker, one_thread_each
from ..datasets.growing import Layer

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

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
