"""Time every op that has a compiled form against its eager form, forward and forward + backward, with the error beside it.

    python benchmarks/ops.py [THREADS]

Medians of interleaved runs. The error is the largest absolute difference from the float64 reference, of the output or of a
gradient. A ratio above 1 means that the compiled form is faster.
"""

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from geovit.core.native import native_status
from geovit.core.ops.swiglu import swiglu

SHAPES = [(64, 128), (1024, 256), (8192, 512), (32768, 512)]  # tokens x width, from cache to main memory
BACKENDS = ("eager", "native")


def medians(calls: list[Callable[[], object]], seconds: float = 1.0) -> list[float]:
    """Run the calls in turn for some seconds and return the median time of each in milliseconds."""
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 5:
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            taken.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(taken) for taken in times]


def results(inputs: list[Tensor], grad: Tensor, backend: str) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = swiglu(*leaves, backend=backend)
    return [out, *torch.autograd.grad(out, leaves, grad)]


def main() -> None:
    loaded, reason = native_status()
    if not loaded:
        raise SystemExit(f"nothing to compare: {reason}")
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {reason.split(' of ')[0]}; milliseconds")
    columns = ("forward: eager", "native", "ratio", "fwd+bwd: eager", "native", "ratio", "error: eager", "native")
    print(f"{'swiglu':22}" + "".join(f"{column:>{len(column) + 3}}" for column in columns))
    for dtype in (torch.float32, torch.bfloat16):
        for shape in SHAPES:
            *inputs, grad = (torch.randn(shape).to(dtype) for _ in range(3))
            wide = results([x.double() for x in inputs], grad.double(), "reference")
            errors = [
                max((got - want).abs().max().item() for got, want in zip(results(inputs, grad, backend), wide, strict=True))
                for backend in BACKENDS
            ]
            forward = medians([partial(swiglu, *inputs, backend=backend) for backend in BACKENDS])
            both = medians([partial(results, inputs, grad, backend) for backend in BACKENDS])
            name = f"{str(dtype).removeprefix('torch.')} {shape[0]} x {shape[1]}"
            print(
                f"{name:22}{forward[0]:17.3f}{forward[1]:9.3f}{forward[0] / forward[1]:8.2f}"
                f"{both[0]:17.3f}{both[1]:9.3f}{both[0] / both[1]:8.2f}{errors[0]:15.1e}{errors[1]:9.1e}"
            )


if __name__ == "__main__":
    main()
