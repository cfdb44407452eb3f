"""`geovit bench`: how fast the backends of each op are on this machine, with their errors beside the times."""

import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from rich.table import Table

from ..core.device import resolve_device
from ..core.native import native_status
from .cli import console
from .op_cases import OPS, Op, OpCase, answers, error

_DTYPES = (torch.float32, torch.bfloat16)
_FEWEST_RUNS = 5


def bench(threads: int = 0, seconds: float = 1.0, device: str = "auto") -> int:
    """Time every op's backends, forward and forward with backward, with the error beside it.

    The eager form, which is vectorised PyTorch, and what ``auto`` takes here have their turns in one process, and the median is
    told. A ratio above 1 is a gain over the eager form. The error is the largest one over the results and all gradients, each
    relative to its largest entry, against the eager form in float64.

    Args:
        threads: CPU threads of torch; 0 leaves the number as it is.
        seconds: to spend on each pair of times.
        device: auto, cpu, cuda, cuda:1 or mps.

    Returns:
        0.

    Raises:
        ValueError: a negative number of threads, no time to spend, or an unknown device.
    """
    if threads < 0 or not seconds > 0:
        raise ValueError(f"threads is {threads}, seconds is {seconds}: expected 0 or more threads, and more than 0 seconds")
    target, before = resolve_device(device), torch.get_num_threads()
    show = console().print
    try:
        torch.set_num_threads(threads or before)
        show(machine(target))
        if not native_status()[0]:
            show(f"compiled kernels are not in use: {native_status()[1]}")
        for name, op in OPS.items():
            table = Table(title=f"\n{name}; times in ms", title_justify="left", title_style="bold", box=None, pad_edge=False)
            for i, column in enumerate(("dtype", "size", "backend", "forward", "ratio", "+ backward", "ratio", "error")):
                table.add_column(column, justify="left" if i < 3 else "right", no_wrap=True)
            for dtype in _DTYPES:
                for case in op.cases:
                    _add_rows(table, op, case, dtype, target, seconds)
            show(table)
    finally:
        torch.set_num_threads(before)
    return 0


def machine(device: torch.device) -> str:
    """Say in a line what a time was measured on: CPU, threads, GPU if that is the device, torch."""
    names = [platform.processor() or platform.machine()]
    if (info := Path("/proc/cpuinfo")).is_file():
        lines = (line.partition(":") for line in info.read_text(encoding="utf-8").splitlines())
        names = [value.strip() for key, _, value in lines if key.strip() == "model name"] or names
    gpu = [torch.cuda.get_device_name(device)] if device.type == "cuda" else []
    threads = torch.get_num_threads()
    return ", ".join(
        [
            f"{names[0]} with {torch.backends.cpu.get_cpu_capability()}",
            f"{threads} thread{'s' if threads > 1 else ''}",
            *gpu,
            f"torch {torch.__version__}",
        ]
    )


def medians(calls: list[Callable[[], object]], seconds: float, device: torch.device) -> list[float]:
    """Run the calls in turn for some seconds, and at least some times; return the median seconds of each."""
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    _wait(device)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < _FEWEST_RUNS:
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            _wait(device)
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _add_rows(table: Table, op: Op, case: OpCase, dtype: torch.dtype, device: torch.device, seconds: float) -> None:
    inputs = case.inputs(device, dtype)
    # On the CPU: not every accelerator has float64.
    want = answers(case, [x.cpu().double() for x in inputs], "eager")
    backends = list(dict.fromkeys(["eager", op.choose_backend(device, dtype)[0]]))
    errors = [error(answers(case, inputs, backend), want) for backend in backends]
    forward = medians([partial(case.outputs, inputs, backend) for backend in backends], seconds, device)
    timed = [forward]
    if case.trains:
        timed.append(medians([partial(answers, case, inputs, backend) for backend in backends], seconds, device))
    for i, name in enumerate(backends):
        head = (str(dtype).removeprefix("torch."), case.size) if i == 0 else ("", "")
        times = [cell for t in timed for cell in (f"{1e3 * t[i]:.3f}", f"{t[0] / t[i]:.2f}" if i else "")]
        table.add_row(*head, name, *times, *[""] * (4 - len(times)), f"{errors[i]:.1e}")
