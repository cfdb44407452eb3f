"""Time window attention against the same formula in PyTorch, forward and with all gradients, bias table included.

python benchmarks/local_attention.py --threads 2

Compared, in turn in one process, medians told:

- ``plain``: matmul + bias + mask + softmax + matmul on windows that have been cut out before, as Swin computes; of the forward
  pass also ``sdpa``, PyTorch's fused call with bias and mask added up before (it refuses a bias that learns);
- ``whole``: the same from the image, with the roll, the cut into windows and their inverse, which is what a layer needs;
- ``native``: ``local_attention`` from the image.

The share is that of the rate of a large float32 matrix product, with the multiplications that the formula needs (2 products
forward, 5 more backward, since scores are computed again). Errors are the largest differences from float64, relative to the
largest entry; the worst of the output, and of all gradients.
"""

import argparse
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import NamedTuple

import roofline
import torch
from torch import Tensor
from torch.nn import functional as F

from geovit.core.native import native_status
from geovit.core.ops.local_attention import local_attention, windows


class Case(NamedTuple):
    """One image size and window; the bars are those of the speed-up over ``plain``."""

    name: str
    batch: int
    size: tuple[int, ...]
    window: tuple[int, ...]
    shift: tuple[int, ...]
    heads: int
    head_dim: int
    forward_bar: float = 0.0
    training_bar: float = 0.0


CASES = (
    Case("2-D 64², window 16, 6 x 30", 1, (64, 64), (16, 16), (8, 8), 6, 30, 4.0, 2.5),
    Case("3-D 49³, window 7, 3 x 16", 1, (49, 49, 49), (7, 7, 7), (3, 3, 3), 3, 16, 4.0, 3.0),
    Case("Swin-T stage 1, 8 images", 8, (56, 56), (7, 7), (3, 3), 3, 32),
    Case("Swin-T stage 3, 8 images", 8, (14, 14), (7, 7), (3, 3), 12, 32),
)


def cut(x: Tensor, window: tuple[int, ...]) -> Tensor:
    """Cut (B, *S, H, D) into windows (B W, H, N, D)."""
    axes = len(window)
    for a in reversed(range(axes)):
        x = x.unflatten(1 + a, (-1, window[a]))
    x = x.permute(0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), -2, -1)
    return x.flatten(axes + 1, -3).flatten(0, axes).transpose(1, 2)


def join(x: Tensor, case: Case) -> Tensor:
    """Invert ``cut``."""
    axes = len(case.window)
    grid = [n // w for n, w in zip(case.size, case.window, strict=True)]
    x = x.transpose(1, 2).reshape(case.batch, *grid, *case.window, case.heads, case.head_dim)
    x = x.permute(0, *[a for i in range(axes) for a in (1 + i, 1 + axes + i)], -2, -1)
    return x.reshape(case.batch, *case.size, case.heads, case.head_dim)


class Rival:
    """What Swin does, in any dtype: a rolled image in windows, a table of biases by relative position, a mask."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.axes = list(range(1, 1 + len(case.size)))
        points = torch.cartesian_prod(*(torch.arange(n) for n in case.window)).reshape(-1, len(case.window))
        row = torch.zeros((), dtype=torch.long)
        for a, w in enumerate(case.window):
            row = row * (2 * w - 1) + points[:, None, a] - points[None, :, a] + w - 1
        self.row_NN = row
        region = torch.zeros(case.size)
        for a, (n, w, s) in enumerate(zip(case.size, case.window, case.shift, strict=True)):
            x = torch.arange(n).view([-1 if b == a else 1 for b in range(len(case.size))])
            region = region * 3 + (x >= n - w).float() + (x >= n - s).float()
        region_WN = cut(region[None, ..., None, None], case.window)[:, 0, :, 0]
        self.mask_WNN = (region_WN[:, :, None] != region_WN[:, None]).float() * -100

    def windows(self, qkv: Tensor) -> tuple[Tensor, ...]:
        rolled = qkv.roll([-s for s in self.case.shift], self.axes)
        return tuple(cut(x, self.case.window) for x in rolled.unbind(-3))

    def bias(self, table: Tensor) -> Tensor:
        """Bias and mask of every window: (W, H, N, N)."""
        return table[self.row_NN].permute(2, 0, 1) + self.mask_WNN.to(table.dtype)[:, None]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
        scores = self.case.head_dim**-0.5 * q @ k.mT + table[self.row_NN].permute(2, 0, 1)
        if any(self.case.shift):
            scores = scores.unflatten(0, (self.case.batch, -1)) + self.mask_WNN.to(table.dtype)[:, None]
            scores = scores.flatten(0, 1)
        return scores.softmax(-1) @ v

    def whole(self, qkv: Tensor, table: Tensor) -> Tensor:
        return join(self.attend(*self.windows(qkv), table), self.case).roll(self.case.shift, self.axes)


def ours(case: Case, backend: str = "native") -> Callable[[Tensor, Tensor], Tensor]:
    pattern = windows(case.window, shift=case.shift)

    def run(qkv: Tensor, table: Tensor) -> Tensor:
        return local_attention(*qkv.unbind(-3), pattern, bias_table=table, backend=backend)  # type: ignore[arg-type]

    return run


def inputs(case: Case, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Return the projection (B, *S, 3, H, D), the bias table and a gradient of the output."""
    generator = torch.Generator().manual_seed(0)
    image = (case.batch, *case.size)
    qkv = torch.randn(*image, 3, case.heads, case.head_dim, generator=generator)
    table = torch.randn(prod(2 * w - 1 for w in case.window), case.heads, generator=generator)
    grad = torch.randn(*image, case.heads, case.head_dim, generator=generator)
    return qkv.to(dtype), table.to(dtype), grad.to(dtype)


def step(function: Callable[..., Tensor], leaves: tuple[Tensor, ...], grad: Tensor) -> list[Tensor]:
    """Return the output and the gradients of all leaves."""
    leaves = tuple(x.detach().requires_grad_() for x in leaves)
    out = function(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def medians(functions: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Run all in turn, once to warm up and then at least three times; return milliseconds."""
    for function in functions.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 3:
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(values) for name, values in times.items()}


def errors(function: Callable[..., Tensor], case: Case, exact: list[Tensor]) -> tuple[float, float]:
    *leaves, grad = inputs(case)
    found = [
        ((got.double() - want).abs().max() / want.abs().max()).item()
        for got, want in zip(step(function, tuple(leaves), grad), exact, strict=True)
    ]
    return found[0], max(found[1:])


def extra_memory(index: int) -> float:
    """Peak memory of one training step beyond what it is given and returns, in MB; Linux only."""

    def status(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

    case = CASES[index]
    small = case._replace(batch=1, size=case.window, shift=(0,) * len(case.window))
    *leaves, grad = inputs(small)
    step(ours(small), tuple(leaves), grad)  # what libraries allocate at their first call
    *leaves, grad = inputs(case)
    q, k, v = (x.detach().requires_grad_() for x in leaves[0].unbind(-3))
    table = leaves[1].requires_grad_()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = status("VmRSS")
    pattern = windows(case.window, shift=case.shift)
    out = local_attention(q, k, v, pattern, bias_table=table, backend="native")
    grads = torch.autograd.grad(out, (q, k, v, table), grad)
    returned = sum(x.numel() * x.element_size() for x in (out, *grads))
    return (status("VmHWM") - before - returned) / 1e6


def report(case: Case, index: int, seconds: float, rate: float) -> tuple[list[str], bool]:
    """Rows of the table, and whether all bars were taken."""
    rival, native = Rival(case), ours(case)
    qkv, table, grad = inputs(case)
    cut_out = tuple(x.contiguous() for x in rival.windows(qkv))
    cut_grad = torch.randn_like(cut_out[0])
    fused_bias = rival.bias(table).repeat(case.batch, 1, 1, 1)

    def forward(function: Callable[..., Tensor], *leaves: Tensor) -> Callable[[], Tensor]:
        return torch.no_grad()(lambda: function(*leaves))

    def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=fused_bias, scale=case.head_dim**-0.5)

    found = medians(
        {
            "plain": forward(rival.attend, *cut_out, table),
            "sdpa": forward(sdpa, *cut_out),
            "whole": forward(rival.whole, qkv, table),
            "native": forward(native, qkv, table),
            "plain training": lambda: step(rival.attend, (*cut_out, table), cut_grad),
            "whole training": lambda: step(rival.whole, (qkv, table), grad),
            "native training": lambda: step(native, (qkv, table), grad),
        },
        seconds,
    )
    *leaves, exact_grad = inputs(case, torch.float64)
    exact = step(ours(case, "eager"), tuple(leaves), exact_grad)
    our_errors, their_errors = errors(native, case, exact), errors(rival.whole, case, exact)
    run = subprocess.run([sys.executable, __file__, "--memory", str(index)], capture_output=True, text=True, check=False)
    memory = float(run.stdout) if run.returncode == 0 else float("nan")
    count = case.batch * prod(case.size) * case.heads
    scores = count * prod(case.window)
    lines, taken = [], True
    for name, products, bar, pair in (("", 2, case.forward_bar, 0), (" training", 7, case.training_bar, 1)):
        took = found["native" + name]
        gain = found["plain" + name] / took
        # Multiplications within the windows that the shift leaves: fewer than those of the masked whole ones.
        axes = zip(case.size, case.window, case.shift, strict=True)
        pairs = prod(sum(x * x for x in extents(*axis)) for axis in axes)
        flops = 2 * products * case.batch * case.heads * case.head_dim * pairs
        share = flops / took / 1e6 / rate
        taken = taken and gain >= bar
        told = "refused" if name else f"{found['sdpa']:.2f}"
        extra = f"{memory:.0f} of {4 * scores / 1e6:.0f}" if name else ""
        cells = [
            case.name,
            name.strip() or "forward",
            *(f"{found[rival_name + name]:.2f}" for rival_name in ("plain", "whole", "native")),
            told,
            f"{gain:.1f}" + (f" (bar {bar})" if bar else ""),
            f"{found['whole' + name] / took:.1f}",
            f"{share:.0%}",
            f"{our_errors[pair]:.0e}",
            f"{their_errors[pair]:.0e}",
            extra,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines, taken


def extents(length: int, window: int, shift: int) -> list[int]:
    """Sizes of the windows on an axis."""
    cuts = [0, *range(shift, length, window), length] if shift else [*range(0, length, window), length]
    return [b - a for a, b in pairwise(cuts)]


def main() -> int:
    """Print the table; exit with 1 if a bar was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=6.0, help="for each case")
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory is not None:
        print(extra_memory(args.memory))
        return 0
    rates = roofline.rates()
    rate = rates[0] / 1e9
    setup = (
        f"{native_status()[1].split(' of ')[0]}, {args.threads} threads, torch {torch.__version__}, {cpu()}. "
        f"{roofline.told(rates)} Milliseconds, medians of runs in turn; extra memory is the peak of a training step beyond its "
        "inputs and outputs. What is compared: see the head of `benchmarks/local_attention.py`."
    )
    columns = ["case", "pass", "plain", "whole", "native", "sdpa", "over plain", "over whole", "share of product rate", "error"]
    columns += ["error of whole", "extra memory, of all scores, MB"]
    lines = [setup, ""]
    lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    taken = True
    for index, case in enumerate(CASES):
        rows, ok = report(case, index, args.seconds, rate)
        lines += rows
        taken = taken and ok
    print(*lines, sep="\n")
    return 0 if taken else 1


def cpu() -> str:
    """Name the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
