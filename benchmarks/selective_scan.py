"""Time the selective scan against a loop over time in PyTorch, and print a table.

python benchmarks/selective_scan.py --threads 2

Median of runs that take turns in one process. The baseline is the vectorised time loop, (batch, channels, states) at a time,
trained by autograd; for the four routes of SS2D it is given the image rearranged into four sequences, and merged again, as
implementations without routes by index do. Errors are relative to the largest entry of the same loop in float64. The roofline is
the larger of two times: arithmetic at the rate of a matrix product measured here, and compulsory traffic at the speed of a
measured copy; a scan has fewer fused multiply-adds than a matrix product, so it cannot reach all of it.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import roofline
import torch
from torch import Tensor

from geovit.apps import bench
from geovit.core.ops.selective_scan import CROSS_2D, scan_orders, selective_scan

BARS = {"L": {"forward": 100, "training": 60}, "S": {"forward": 30, "training": 30}}  # of one sequence, of SS2D
FLOPS = {"forward": 21, "training": 61}  # for a state and step; a fused multiply-add counts twice
Scan = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def time_loop(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The recurrence, one step at a time: u, dt (..., L, D), A (..., D, N), B, C (..., L, N)."""
    h = u.new_zeros(*torch.broadcast_shapes(u.shape[:-2], A.shape[:-2]), *A.shape[-2:])
    out = []
    for u_t, dt_t, B_t, C_t in zip(*(x.unbind(-2) for x in (u, dt, B, C)), strict=True):
        h = torch.exp(dt_t[..., None] * A) * h + (dt_t * u_t)[..., None] * B_t[..., None, :]
        out.append((h * C_t[..., None, :]).sum(-1))
    return torch.stack(out, -2)


def cross_loop(size: tuple[int, int]) -> Scan:
    """The time loop behind a materialised cross-scan and merge."""

    def routes(x: Tensor) -> Tensor:
        rows = x.unflatten(1, size)
        both = torch.stack((rows.flatten(1, 2), rows.transpose(1, 2).flatten(1, 2)), 1)
        return torch.cat((both, both.flip(2)), 1)

    def own(x: Tensor) -> Tensor:
        """Each route's tensor in the order of the route: (B, L, K, ...) to (B, K, L, ...)."""
        return torch.stack([routes(x[:, :, k])[:, k] for k in range(4)], 1)

    def scan(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        y = time_loop(routes(u), own(dt), A, own(B), own(C))
        both = y[:, :2] + y[:, 2:].flip(2)
        return both[:, 0] + both[:, 1].unflatten(1, size[::-1]).transpose(1, 2).flatten(1, 2)

    return scan


def results(scan: Scan, inputs: list[Tensor], weight: Tensor, train: bool) -> list[Tensor]:
    y = scan(*inputs)
    return [y.detach(), *torch.autograd.grad(y, inputs, weight)] if train else [y]


def seconds(candidates: list[Callable[[], object]], rounds: list[int]) -> list[float]:
    """Medians; the candidates take turns, the first ones more often."""
    taken: list[list[float]] = [[] for _ in candidates]
    for turn in range(max(rounds)):
        for candidate, times, most in zip(candidates, taken, rounds, strict=True):
            if turn % -(-max(rounds) // most) == 0:
                start = time.perf_counter()
                candidate()
                times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in taken]


def case(name: str, length: int, dim: int, states: int, size: tuple[int, int] | None, rates: tuple[float, float]) -> bool:
    """Print the rows of a case; return whether it takes its bars."""
    torch.manual_seed(0)
    route = [] if size is None else [4]
    inputs = [
        torch.randn(1, length, dim),
        torch.rand(1, length, *route, dim) * 0.1,
        -torch.rand(*route, dim, states) * 8 - 0.1,
        torch.randn(1, length, *route, states),
        torch.randn(1, length, *route, states),
    ]
    weight = torch.randn(1, length, dim)
    orders = None if size is None else scan_orders(size, CROSS_2D)
    loop = time_loop if size is None else cross_loop(size)

    def native(*given: Tensor) -> Tensor:
        y = selective_scan(*given, orders=orders, backend="native")
        assert isinstance(y, Tensor)
        return y

    taken = True
    for mode in ("forward", "training"):
        train = mode == "training"
        single = [x.clone().requires_grad_(train) for x in inputs]
        double = [x.double().requires_grad_(train) for x in inputs]
        want = [x.detach() for x in results(loop, double, weight.double(), train)]
        errors = []
        for scan in (native, loop):
            pairs = zip(results(scan, single, weight, train), want, strict=True)
            errors.append(max(float((got.detach() - x).abs().max() / x.abs().max()) for got, x in pairs))
        del want, double
        candidates = [partial(results, scan, single, weight, train) for scan in (native, loop)]
        ours, theirs = seconds(candidates, [21, 3])
        work = inputs[1].numel() * states * FLOPS[mode]
        traffic = 4 * (sum(x.numel() for x in inputs) + weight.numel()) * (3 if train else 1)
        least = max(work / rates[0], traffic / rates[1])
        bar = BARS[name[0]][mode]
        taken = taken and theirs / ours >= bar
        print(
            f"| {name} | {mode} | {ours * 1e3:.2f} | {theirs * 1e3:.0f} | {theirs / ours:.0f} (bar {bar}) "
            f"| {errors[0]:.0e} | {errors[1]:.0e} | {least * 1e3:.2f} | {least / ours:.0%} |",
            flush=True,
        )
    return taken


def main() -> int:
    """Print the table; return 1 if a bar was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args().threads)
    rates = roofline.rates()
    print(f"{bench.machine(torch.device('cpu'))}, float32, batch 1. {roofline.told(rates)}\n")
    print("| case | pass | native ms | time loop ms | times faster | error | loop's error | roofline ms | reached |")
    print("|---|---|---|---|---|---|---|---|---|")
    taken = [
        case("L 4096, D 384, N 16", 4096, 384, 16, None, rates),
        case("SS2D 56 x 56 x 192, N 16", 56 * 56, 192, 16, (56, 56), rates),
        case("SS2D 56 x 56 x 192, N 1", 56 * 56, 192, 1, (56, 56), rates),
    ]
    return 0 if all(taken) else 1


if __name__ == "__main__":
    sys.exit(main())
