"""What this machine can do at best: the rate of a large float32 product, and the bandwidth of a copy."""

import statistics
import time

import torch

from geovit.core.ops.linear import linear


def rates() -> tuple[float, float]:
    """Return flop/s of a 2048 x 2048 product, the faster of PyTorch's and ``linear``'s, and byte/s read and written by a copy.

    On CPUs that are not Intel's, PyTorch's own product reaches half of what the CPU can do.
    """
    a, b = torch.randn(2, 2048, 2048).unbind()
    source, target = torch.randn(2, 1 << 26).unbind()
    calls = (lambda: torch.mm(a, b), lambda: linear(a, b), lambda: target.copy_(source))
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(9):
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    plain, fast, copy = (statistics.median(taken) for taken in times)
    return 2 * 2048**3 / min(plain, fast), 2 * 4 * len(source) / copy


def told(found: tuple[float, float]) -> str:
    """Say the rates in words."""
    product, copy = (f"{rate / 1e9:.0f}" for rate in found)
    return f"A product of 2048 x 2048 runs at {product} GFLOP/s, a copy of 256 MiB at {copy} GB/s (read and written)."
