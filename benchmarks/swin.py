"""Time a training step of Swin-T's stages against timm's, on this machine.

python benchmarks/swin.py --threads 2 --batch 2 --profile

Both networks have the same weights and get the same tokens, those behind the stem at 224 x 224 pixels; the step is a forward and
a backward pass through all stages, without drop path. They take turns in one process, and medians are told.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import roofline
import timm
import torch
from torch import Tensor, nn

from geovit.apps.bench import machine
from geovit.core.weights.swin import load_swin

BAR = 1.3


class Step:
    """A forward and backward pass through stages; returns the output and the gradients of the input and all parameters."""

    def __init__(self, parts: list[nn.Module], dtype: torch.dtype | None) -> None:
        self.parts = parts
        self.dtype = dtype
        self.parameters = [p for part in parts for p in part.parameters()]

    def __call__(self, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        for parameter in self.parameters:
            parameter.grad = None
        x = x.detach().requires_grad_()
        y = x
        with torch.autocast("cpu", dtype=self.dtype, enabled=self.dtype is not None):
            for part in self.parts:
                y = part(y)
        y.backward(grad)
        return y.detach(), x.grad


def networks(dtype: torch.dtype | None) -> tuple[Step, Step]:
    """Return the steps of ours and of timm's, with the same weights."""
    torch.manual_seed(0)
    theirs = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, drop_path_rate=0.0)
    ours = load_swin(theirs.state_dict()).backbone
    parts: list[nn.Module] = [ours.stages[0]]
    for down, stage in zip(ours.downs, ours.stages[1:], strict=True):
        parts += [down, stage]
    return Step(parts, dtype), Step(list(theirs.layers), dtype)


def medians(calls: list[Callable[[], object]], runs: int) -> list[list[float]]:
    """Run the calls in turn; return the sorted seconds of each."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(runs + 1):
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    return [sorted(taken[1:]) for taken in times]


def profile(step: Callable[[], object]) -> str:
    """Return where the time of a step goes, by op."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for _ in range(3):
            step()
    return profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=48)


def main() -> int:
    """Print times, errors, and with ``--profile`` their parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--bfloat16", action="store_true", help="under autocast")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    ours, theirs = networks(torch.bfloat16 if args.bfloat16 else None)
    x, grad = torch.randn(args.batch, 56, 56, 96), torch.randn(args.batch, 7, 7, 768)
    got, want = ours(x, grad), theirs(x, grad)
    errors = [float((g - w).abs().max() / w.abs().max()) for g, w in zip(got, want, strict=True)]
    own, other = medians([lambda: ours(x, grad), lambda: theirs(x, grad)], args.runs)
    ratio = statistics.median(other) / statistics.median(own)
    dtype = "bfloat16 autocast" if args.bfloat16 else "float32"
    spread = []
    for taken in (own, other):
        low, middle, high = (1e3 * t for t in (taken[len(taken) // 5], statistics.median(taken), taken[-1 - len(taken) // 5]))
        spread.append(f"{middle:.0f} ({low:.0f} to {high:.0f})")
    cells = [f"batch {args.batch}, {dtype}", *spread, f"{ratio:.2f} (bar {BAR})", *(f"{error:.0e}" for error in errors)]
    setup = (
        f"{machine(torch.device('cpu'))}, timm {timm.__version__}. {roofline.told(roofline.rates())} Forward "
        f"and backward through the stages at 224 x 224 pixels, {args.runs} runs in turn, medians (20 to 80 %) in ms; errors are "
        "differences from timm, relative to the largest value."
    )
    lines = [
        setup,
        "",
        "| Swin-T stages | geovit | timm | times faster | error | of the input's gradient |",
        "|---|---|---|---|---|---|",
        f"| {' | '.join(cells)} |",
    ]
    if args.profile:
        lines += ["", "geovit", profile(lambda: ours(x, grad)), "timm", profile(lambda: theirs(x, grad))]
    print("\n".join(lines))
    return 0 if ratio >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
