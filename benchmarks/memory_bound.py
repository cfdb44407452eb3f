"""Time the memory-bound neighbours of convolution against PyTorch's best form: a Markdown table, in under 90 seconds.

python benchmarks/memory_bound.py --threads 1

Forms of one case take turns in one process and medians are told. With one thread the seconds are CPU time of that thread, so that
other work on the machine counts little; with several they are wall time. All inputs are float32 and channels-last tokens, as
the op takes them; torch's forms get the layout that each likes best. "contiguous" is channels first, which a channels-last
network has only between transposes, and they are not counted; so the last ratios are to the best form that starts and ends
in channels-last memory. The bandwidth is what one would need to have read every
input and written every output once; the share is that of a plain copy of the first input, measured in the same rounds.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from geovit.apps.bench import machine
from geovit.core.native import native_status
from geovit.core.ops.depthwise_conv import depthwise_conv
from geovit.core.ops.instance_norm_act import instance_norm_act
from geovit.core.ops.layer_norm_residual import layer_norm_residual

Outputs = tuple[Tensor, ...]


def identity(x: Tensor) -> Tensor:
    """Leave a tensor as it is."""
    return x


@dataclass
class Form:
    """One way to compute a case. ``view`` brings the inputs that are images into its layout, before the clock starts."""

    function: Callable[..., Outputs]
    view: Callable[[Tensor], Tensor] = identity


@dataclass
class Case:
    """One size of one op. ``ours`` is None where this library has no op of its own; images come first among the inputs."""

    name: str
    inputs: list[Tensor]
    torch_forms: dict[str, Form]
    ours: Callable[..., Outputs] | None = None
    reference: Callable[..., Outputs] | None = None
    written: int = 1  # outputs of the forward, each of the size of the first input
    images: int = 1


def channels_first(x: Tensor) -> Tensor:
    """Copy channels-last tokens to channels first."""
    return x.movedim(-1, 1).contiguous()


def channels_last_view(x: Tensor) -> Tensor:
    """View channels-last tokens as torch's channels_last tensors."""
    return x.movedim(-1, 1)


def instance_norm_cases() -> Iterator[Case]:
    """MONAI's residual U-Net blocks at several depths: LeakyReLU, with and without residual."""
    for size, dim, with_residual in ((64, 48, False), (64, 48, True), (32, 96, False), (32, 96, True), (16, 192, False)):
        shape = (1, size, size, size, dim)
        inputs = [torch.randn(shape) for _ in range(1 + with_residual)] + [torch.randn(dim), torch.randn(dim)]

        def ours(*args: Tensor, backend: str = "auto") -> Outputs:
            x, *residual, w, b = args
            return (
                instance_norm_act(x, w, b, residual=residual[0] if residual else None, activation="leaky_relu", backend=backend),
            )

        def instance(*args: Tensor) -> Outputs:
            x, *residual, w, b = args
            return (F.leaky_relu(sum(residual, F.instance_norm(x, weight=w, bias=b))),)

        def group(*args: Tensor) -> Outputs:
            x, *residual, w, b = args
            return (F.leaky_relu(sum(residual, F.group_norm(x, x.shape[1], w, b))),)

        forms = {
            f"{name} {layout}": Form(function, view)
            for name, function in (("instance_norm", instance), ("group_norm", group))
            for layout, view in (("contiguous", channels_first), ("channels_last", channels_last_view))
        }
        name = f"instance_norm_act {size}^3 x {dim}{' + residual' if with_residual else ''}"
        yield Case(name, inputs, forms, ours, lambda *a, f=ours: f(*a, backend="reference"), images=1 + with_residual)


def layer_norm_cases() -> Iterator[Case]:
    """Swin-T's stages at batch 8, and a larger image."""
    for count, dim, scaled in ((25088, 96, False), (25088, 96, True), (6272, 192, True), (1568, 384, True), (65536, 256, True)):
        inputs = [torch.randn(count, dim) for _ in range(2)] + [torch.randn(dim) for _ in range(2 + scaled)]

        def ours(x: Tensor, branch: Tensor, w: Tensor, b: Tensor, s: Tensor | None = None, backend: str = "auto") -> Outputs:
            return layer_norm_residual(x, branch, w, b, scale=s, backend=backend)

        def plain(x: Tensor, branch: Tensor, w: Tensor, b: Tensor, s: Tensor | None = None) -> Outputs:
            total = x + (branch if s is None else branch * s)
            return total, F.layer_norm(total, w.shape, w, b)

        name = f"layer_norm_residual {count} x {dim}{' + scale' if scaled else ''}"
        reference = lambda *a, f=ours: f(*a, backend="reference")  # noqa: E731
        yield Case(name, inputs, {"add, layer_norm": Form(plain)}, ours, reference, written=2, images=2)


def depthwise_cases() -> Iterator[Case]:
    """Mamba's convolution, ConvNeXt's, and three-dimensional ones, with SiLU."""
    sizes = (
        (1, (4096,), 384, 4),
        (8, (56, 56), 96, 3),
        (8, (28, 28), 192, 5),
        (8, (56, 56), 96, 7),
        (8, (14, 14), 384, 7),
        (1, (48, 48, 48), 48, 3),
        (1, (32, 32, 32), 48, 5),
    )
    for batch, size, dim, kernel in sizes:
        axes, causal = len(size), len(size) == 1
        inputs = [torch.randn(batch, *size, dim), torch.randn(dim, 1, *[kernel] * axes), torch.randn(dim)]

        def ours(x: Tensor, w: Tensor, b: Tensor, causal: bool = causal, backend: str = "auto") -> Outputs:
            return (depthwise_conv(x, w, b, sees="before" if causal else "around", activation="silu", backend=backend),)

        def plain(x: Tensor, w: Tensor, b: Tensor, axes: int = axes, causal: bool = causal) -> Outputs:
            k = w.shape[-1]
            y = (F.conv1d, F.conv2d, F.conv3d)[axes - 1](x, w, b, padding=k - 1 if causal else k // 2, groups=len(w))
            return (F.silu(y[..., : x.shape[-1]]),)

        def between_transposes(x: Tensor, w: Tensor, b: Tensor, f: Callable[..., Outputs] = plain) -> Outputs:
            return (f(x.movedim(-1, 1).contiguous(), w, b)[0].movedim(1, -1).contiguous(),)

        forms = {"contiguous": Form(plain, channels_first), "between transposes": Form(between_transposes)}
        if axes > 1:
            forms["channels_last"] = Form(plain, channels_last_view)
        name = f"depthwise_conv {batch} x {' x '.join(map(str, size))} x {dim}, kernel {kernel}"
        yield Case(name, inputs, forms, ours, lambda *a, f=ours: f(*a, backend="reference"))


def gelu_cases() -> Iterator[Case]:
    """The GELU of an MLP, whose bias the matrix product adds: no op of ours, see the README of layer_norm_residual."""
    for count, dim in ((3136, 384), (25088, 384)):
        yield Case(f"gelu {count} x {dim}", [torch.randn(count, dim)], {"F.gelu": Form(lambda x: (F.gelu(x),))})


def training(form: Form, inputs: list[Tensor], images: int) -> tuple[Callable[[], object], Callable[[], list[Tensor]]]:
    """Return a forward without gradients, and a forward with backward that returns outputs and gradients."""
    leaves = [(form.view(x) if i < images else x).detach().requires_grad_() for i, x in enumerate(inputs)]
    with torch.no_grad():
        outputs = form.function(*leaves)
    generator = torch.Generator().manual_seed(1)
    grads = []
    for y in outputs:  # the same numbers at the same place whatever the layout
        like = y if form.view is identity else y.movedim(1, -1)
        grad = torch.randn(like.shape, generator=generator).to(y.dtype)
        grads.append(grad if form.view is identity else form.view(grad))

    def forward() -> None:
        with torch.no_grad():
            form.function(*leaves)

    def both() -> list[Tensor]:
        results = form.function(*leaves)
        return [*(y.detach() for y in results), *torch.autograd.grad(results, leaves, grads)]

    return forward, both


def medians(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Run the calls in turn for some seconds, five times at least; return the median of each."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 5:
        for name, call in calls.items():
            start = clock()
            call()
            times[name].append(clock() - start)
    return {name: statistics.median(taken[1:]) for name, taken in times.items()}


def row(case: Case, seconds: float) -> str:
    """Time a case and return its line of the table."""
    forms = dict(case.torch_forms)
    if case.ours is not None:
        forms["ours"] = Form(case.ours)
    pairs = {name: training(form, case.inputs, case.images) for name, form in forms.items()}
    first, target = case.inputs[0], torch.empty_like(case.inputs[0])
    copy = {"copy": lambda: target.copy_(first)}
    forward = medians({**copy, **{name: pair[0] for name, pair in pairs.items()}}, seconds / 2)
    both = medians({name: pair[1] for name, pair in pairs.items()}, seconds / 2)
    peers = [name for name in forms if name != "ours"]
    best, best_both = min(peers, key=forward.__getitem__), min(peers, key=both.__getitem__)
    mine = "ours" if case.ours is not None else best
    last = [name for name in peers if forms[name].view is not channels_first]
    error = "-"
    if case.ours is not None:
        _, exact = training(Form(case.reference), [x.double() for x in case.inputs], case.images)
        errors = [((g.double() - w).abs().max() / w.abs().max()).item() for g, w in zip(pairs["ours"][1](), exact(), strict=True)]
        error = f"{errors[0]:.0e}, {max(errors):.0e}"
    moved = sum(x.numel() for x in case.inputs) * 4 + case.written * first.numel() * 4
    copied = 2 * first.numel() * 4 / forward["copy"]
    cells = [
        case.name,
        f"{1e3 * forward[best]:.2f} ({best})",
        f"{1e3 * forward[mine]:.2f}",
        f"{forward[best] / forward[mine]:.2f}",
        f"{1e3 * both[best_both]:.2f} ({best_both})",
        f"{1e3 * both[mine]:.2f}",
        f"{both[best_both] / both[mine]:.2f}",
        f"{min(map(forward.get, last)) / forward[mine]:.2f}, {min(map(both.get, last)) / both[mine]:.2f}",
        error,
        f"{moved / forward[mine] / 1e9:.1f} / {copied / 1e9:.1f}",
        f"{moved / forward[mine] / copied:.0%}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each case")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    kind = "CPU time" if args.threads == 1 else "wall time"
    print(f"{machine(torch.device('cpu'))}; {native_status()[1].split(' of ')[0]}; medians, ms of {kind}\n")
    head = ["case", "torch forward", "ours", "ratio", "torch forward + backward", "ours", "ratio"]
    head += ["ratios to channels-last", "error forward, worst", "GB/s, copy", "share"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for cases in (instance_norm_cases, layer_norm_cases, depthwise_cases, gelu_cases):
        for case in cases():
            print(row(case, args.seconds), flush=True)


if __name__ == "__main__":
    main()
