"""`geovit bench`: how fast the backends of each op are on this machine, with their errors beside the times."""

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor

from ..core.device import resolve_device
from ..core.native import native_status
from ..core.ops.local_attention import Backend, local_attention, windows
from ..core.ops.local_attention import choose_backend as choose_attention_backend
from ..core.ops.swiglu import choose_backend, swiglu
from .cli import console

_SWIGLU = ((64, 128), (1024, 256), (8192, 512), (32768, 512))  # tokens x width: from cache to main memory
# Axes, image side, window side, heads, head width: a tile of a hyperspectral scene, a larger window, a volume.
_ATTENTION = ((2, 128, 4, 4, 16), (2, 64, 8, 4, 24), (3, 21, 7, 4, 24))
_DTYPES = (torch.float32, torch.bfloat16)
_FEWEST_RUNS = 5


@dataclass(frozen=True, eq=False)
class _Case:
    """One op at one size. All ``backends`` compute the same; times are compared with those of the first."""

    size: str
    inputs: list[Tensor]
    backends: dict[str, Callable[..., Tensor]]
    reference: Callable[..., Tensor]  # for the inputs in float64


def bench(threads: int = 0, seconds: float = 1.0, device: str = "auto") -> int:
    """Time every op's backends, forward and forward with backward, with the error against the float64 reference beside it.

    Backends take turns in one process, and the median is told. A ratio above 1 is a gain over the first backend. The error is
    the largest one over the result and all gradients, each relative to its largest entry.

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
        for title, cases in _OPS.items():
            table = Table(title=f"\n{title}; times in ms", title_justify="left", title_style="bold", box=None, pad_edge=False)
            for i, column in enumerate(("dtype", "size", "backend", "forward", "ratio", "+ backward", "ratio", "error")):
                table.add_column(column, justify="left" if i < 3 else "right", no_wrap=True)
            for dtype in _DTYPES:
                for case in cases(target, dtype):
                    _add_rows(table, case, dtype, target, seconds)
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


def _add_rows(table: Table, case: _Case, dtype: torch.dtype, device: torch.device, seconds: float) -> None:
    (grad,) = _inputs([case.inputs[0].shape], device, dtype, seed=1)  # results have the shape of the first input
    # On the CPU: not every accelerator has float64.
    want = _results(case.reference, [x.cpu().double() for x in case.inputs], grad.cpu().double())
    errors = [_error(_results(function, case.inputs, grad), want) for function in case.backends.values()]
    forward = medians([partial(function, *case.inputs) for function in case.backends.values()], seconds, device)
    both = medians([partial(_results, function, case.inputs, grad) for function in case.backends.values()], seconds, device)
    for i, name in enumerate(case.backends):
        head = (str(dtype).removeprefix("torch."), case.size) if i == 0 else ("", "")
        times = [cell for t in (forward, both) for cell in (f"{1e3 * t[i]:.3f}", f"{t[0] / t[i]:.2f}" if i else "")]
        table.add_row(*head, name, *times, f"{errors[i]:.1e}")


def _results(function: Callable[..., Tensor], inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
    """Return the op's result and the gradients of all inputs."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = function(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def _error(got: list[Tensor], want: list[Tensor]) -> float:
    return max(float((g.cpu().double() - w).abs().max() / w.abs().max()) for g, w in zip(got, want, strict=True))


def _inputs(shapes: Sequence[Sequence[int]], device: torch.device, dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]


def _swiglu_cases(device: torch.device, dtype: torch.dtype) -> Iterator[_Case]:
    backends: dict[str, Callable[..., Tensor]] = {"eager": partial(swiglu, backend="eager")}
    if choose_backend(device, dtype)[0] == "native":
        backends["native"] = partial(swiglu, backend="native")
    for shape in _SWIGLU:
        size = " x ".join(map(str, shape))
        yield _Case(size, _inputs([shape, shape], device, dtype), backends, partial(swiglu, backend="reference"))


def _attention_cases(device: torch.device, dtype: torch.dtype) -> Iterator[_Case]:
    for axes, side, w, heads, width in _ATTENTION:
        window = (w,) * axes
        shapes = [(1, *(side,) * axes, heads, width)] * 3 + [((2 * w - 1) ** axes, heads)]
        backends: dict[str, Callable[..., Tensor]] = {
            "plain": partial(_plain_attention, _bias_rows(window, device), window),
            "eager": partial(_attention, "eager", window),
        }
        best = choose_attention_backend(device, dtype, width)[0]
        if best != "eager":
            backends[best] = partial(_attention, best, window)
        size = f"{side}^{axes}/{w}^{axes}, {heads}x{width}"
        yield _Case(size, _inputs(shapes, device, dtype), backends, partial(_reference_attention, window))


def _attention(backend: Backend, window: tuple[int, ...], q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
    return local_attention(q, k, v, windows(window), bias_table=table, backend=backend)


def _plain_attention(rows_NM: Tensor, window: tuple[int, ...], q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
    """Window attention as it is usually written, with the scores of all windows in memory: matmul, bias, softmax, matmul."""
    q_WHND, k_WHND, v_WHND = (_cut(t, window).flatten(1, -3).transpose(1, 2) for t in (q, k, v))
    scores_WHNM = (q.shape[-1] ** -0.5 * q_WHND) @ k_WHND.mT + table[rows_NM].permute(2, 0, 1)
    out_WNHD = (scores_WHNM.softmax(-1) @ v_WHND).transpose(1, 2)
    return _join(torch.unflatten(out_WNHD, 1, window), q.shape)


def _reference_attention(window: tuple[int, ...], q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
    """Apply the reference to one window after the other, as its memory grows with the square of the image."""
    shape = q.shape
    q, k, v = (_cut(t, window) for t in (q, k, v))
    return _join(local_attention(q, k, v, windows(window), bias_table=table, backend="reference"), shape)


def _bias_rows(window: tuple[int, ...], device: torch.device) -> Tensor:
    """Row of the bias table for each query and key of a window, (N, N)."""
    axes = torch.meshgrid(*(torch.arange(w, device=device) for w in window), indexing="ij")
    rows = torch.zeros((), dtype=torch.long, device=device)
    for w, x in zip(window, (axis.flatten() for axis in axes), strict=True):
        rows = rows * (2 * w - 1) + x[:, None] - x + w - 1
    return rows


def _cut(x: Tensor, window: tuple[int, ...]) -> Tensor:
    """Cut (B, *size, H, D), a multiple of the window, into windows: (W, *window, H, D)."""
    axes = len(window)
    for axis, w in reversed(list(enumerate(window, start=1))):
        x = torch.unflatten(x, axis, (-1, w))
    return x.permute(0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), -2, -1).flatten(0, axes)


def _join(x: Tensor, shape: torch.Size) -> Tensor:
    """Invert ``_cut``, to (B, *size, H, D)."""
    window, size = x.shape[1:-2], shape[1:-2]
    axes = len(size)
    x = torch.unflatten(x, 0, (shape[0], *(n // w for n, w in zip(size, window, strict=True))))
    return x.permute(0, *(i for a in range(axes) for i in (1 + a, 1 + axes + a)), -2, -1).reshape(shape)


_OPS: dict[str, Callable[[torch.device, torch.dtype], Iterator[_Case]]] = {
    "swiglu (tokens x width)": _swiglu_cases,
    "local_attention (image/window, heads x width)": _attention_cases,
}
