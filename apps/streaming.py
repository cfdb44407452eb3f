"""What commands on scenes have in common: forecast a run, carry it out part by part, go on with one that was cut off."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.streaming.plan import Plan
from ..core.streaming.run import Job
from ..datasets.growing import GrowingRasters, Layer


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What ``--plan`` prints: a run that is not carried out.

    Args:
        parts: how many.
        side: pixels on a side of a part.
        memory: bytes that the process is expected to take at its peak.
        seconds: expected, from one part that was read and computed for this.
        work_bytes: on disk while it runs.
        result_bytes: of the results, not compressed.
    """

    parts: int
    side: int
    memory: float
    seconds: float
    work_bytes: int
    result_bytes: int


def forecast(plan: Plan, job: Job[Any], layers: Mapping[str, Layer], *, memory: float) -> Forecast:
    """Read and compute one part from the middle, write nothing, and tell what the whole will take."""
    raise NotImplementedError


def largest_side(
    bytes_of: Callable[[int], float], *, max_memory: float | None, multiple: int, smallest: int, largest: int
) -> int:
    """Return the largest side of parts that memory allows, halving from ``largest``.

    Args:
        bytes_of: what the process takes beside what it holds now, by the side.
        max_memory: gigabytes (10^9 bytes) that the process may take at the most. None: the default of ``core.memory``.
        multiple: of sides.
        smallest, largest: that may be chosen.

    Raises:
        ValueError: if memory does not suffice for the smallest.
    """
    raise NotImplementedError


@contextmanager
def carried_out(
    plan: Plan,
    job: Job[Any],
    layers: Mapping[str, Layer],
    *,
    folder: Path,
    identity: Mapping[str, Any],
    others: Mapping[str, Path] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    dask: str | None = None,
    progress: bool = False,
    label: str = "",
) -> Iterator[GrowingRasters]:
    """Carry a run out and make its rasters; in the block the caller writes the other files; after it all appear.

    Args:
        plan: of the parts.
        job: what to do with them.
        layers: the rasters.
        folder: of the unfinished run.
        identity: what decides the result, see ``GrowingRasters.open``.
        others: further files of the result.
        resume: go on with an unfinished run.
        overwrite: replace results.
        dask: ``local:N`` or the address of a scheduler, ``tcp://...``: parts are computed there.
        progress: show a bar.
        label: of the bar.
    """
    raise NotImplementedError
    yield
