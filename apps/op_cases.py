"""The core's ops, each with sizes to try it at: what `geovit doctor` tests and `geovit bench` times."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..core.ops import (
    affine_act,
    conv,
    conv_transpose,
    depthwise_conv,
    instance_norm_act,
    layer_norm_residual,
    less_attention,
    linear,
    linear_attention,
    local_attention,
    selective_scan,
    ssd,
    swiglu,
)
from ..core.ops.local_attention import neighborhood, windows
from ..core.ops.selective_scan import CROSS_2D, scan_orders


@dataclass(frozen=True, eq=False)
class OpCase:
    """An op at one size.

    Attributes:
        size: the size in words.
        shapes: of the floating inputs, all drawn from a normal distribution.
        call: of the inputs and ``backend=``, one tensor or several.
        trains: whether gradients are asked for, too: not where the kernel is for inference alone.
    """

    size: str
    shapes: Sequence[Sequence[int]]
    call: Callable[..., Any]
    trains: bool = True

    def inputs(self, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        """Draw the inputs, the same ones for every device and dtype but for rounding."""
        generator = torch.Generator().manual_seed(0)
        return [torch.randn(tuple(shape), generator=generator).to(device, dtype) for shape in self.shapes]

    def outputs(self, inputs: Sequence[Tensor], backend: str) -> list[Tensor]:
        """Call the op; always a list."""
        out = self.call(*inputs, backend=backend)
        return [out] if isinstance(out, Tensor) else list(out)


@dataclass(frozen=True, eq=False)
class Op:
    """An op: what ``auto`` takes where, a small size for a test of seconds, and sizes that matter to users."""

    choose_backend: Callable[[torch.device, torch.dtype], tuple[str, str]]
    small: OpCase
    cases: Sequence[OpCase] = ()


def _only_eager(device: torch.device, dtype: torch.dtype) -> tuple[str, str]:
    return "eager", "matrix products of PyTorch"


def _attend(pattern: local_attention.Pattern, q: Tensor, k: Tensor, v: Tensor, table: Tensor, *, backend: Any) -> Tensor:
    return local_attention.local_attention(q, k, v, pattern, bias_table=table, backend=backend)


def _attention(size: tuple[int, ...], pattern: local_attention.Pattern, heads: int, width: int, words: str) -> OpCase:
    rows = 1
    for axis in pattern:
        rows *= axis.rows
    told = f"{' x '.join(map(str, size))} in {words}, {heads} x {width}"
    return OpCase(told, [(1, *size, heads, width)] * 3 + [(rows, heads)], partial(_attend, pattern))


def _scan(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, *, size: tuple[int, ...], backend: Any) -> Any:
    orders = None if len(size) == 1 else scan_orders(size, CROSS_2D).to(u.device)
    return selective_scan.selective_scan(u, dt, -A.exp(), B, C, D=D, softplus=True, orders=orders, backend=backend)


def _scanned(size: tuple[int, ...], dim: int, states: int) -> OpCase:
    length, routes = (size[0], []) if len(size) == 1 else (size[0] * size[1], [len(CROSS_2D)])
    told = f"{' x '.join(map(str, size))}{', 4 routes' if routes else ''}, {dim} channels, {states} states"
    pointwise = [(1, length, *routes, n) for n in (dim, states, states)]
    shapes = [(1, length, dim), pointwise[0], (*routes, dim, states), *pointwise[1:], (*routes, dim)]
    return OpCase(told, shapes, partial(_scan, size=size))


def _norm_act(x: Tensor, weight: Tensor, bias: Tensor, *, backend: Any) -> Tensor:
    return instance_norm_act.instance_norm_act(x, weight, bias, activation="leaky_relu", backend=backend)


def _normed(*shape: int) -> OpCase:
    return OpCase(" x ".join(map(str, shape)), [shape, shape[-1:], shape[-1:]], _norm_act)


def _residual(*shape: int) -> OpCase:
    return OpCase(" x ".join(map(str, shape)), [shape, shape, shape[-1:], shape[-1:]], layer_norm_residual.layer_norm_residual)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor, *, backend: Any) -> Tensor:
    return depthwise_conv.depthwise_conv(
        x, weight, bias, sees="before" if x.ndim == 3 else "around", activation="silu", backend=backend
    )


def _convolved(size: tuple[int, ...], dim: int, kernel: int) -> OpCase:
    told = f"{' x '.join(map(str, size))} x {dim}, kernel {kernel}"
    return OpCase(told, [(1, *size, dim), (dim, 1, *(kernel,) * len(size)), (dim,)], _convolve)


def _full(size: tuple[int, ...], dim: int, out: int) -> OpCase:
    told = f"{' x '.join(map(str, size))}, {dim} to {out}, kernel 3"
    return OpCase(told, [(1, *size, dim), (out, dim, *(3,) * len(size)), (out,)], conv.conv)


def _transposed(size: tuple[int, ...], dim: int, out: int) -> OpCase:
    told = f"{' x '.join(map(str, size))}, {dim} to {out}, kernel 2"
    return OpCase(told, [(1, *size, dim), (dim, out, *(2,) * len(size)), (out,)], conv_transpose.conv_transpose)


def _affine(x: Tensor, mean: Tensor, variance: Tensor, residual: Tensor, *, backend: Any) -> Tensor:
    told = affine_act.norm_affine(mean, variance.square())
    return affine_act.affine_act(x, told, residual, slope=0.01, backend=backend)


def _affine_case(*shape: int) -> OpCase:
    moments = (shape[0], shape[-1])
    return OpCase(" x ".join(map(str, shape)), [shape, moments, moments, shape], _affine, trains=False)


def _moments(size: tuple[int, ...], dim: int, out: int) -> OpCase:
    plain = _full(size, dim, out)
    return OpCase(plain.size, plain.shapes, conv.conv_moments, trains=False)


def _gated(*shape: int) -> OpCase:
    return OpCase(" x ".join(map(str, shape)), [shape, shape], swiglu.swiglu)


def _mapped(rows: int, dim: int, out: int) -> OpCase:
    return OpCase(f"{rows} x {dim} to {out}", [(rows, dim), (out, dim), (out,)], linear.linear)


def _retain(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, *, backend: Any) -> Any:
    return linear_attention.retention(q, k, v, -decay.exp(), backend=backend)


def _dual(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *, causal: bool, backend: Any) -> Any:
    function = ssd.ssd if causal else ssd.ssd_noncausal
    return function(x, torch.nn.functional.softplus(dt), -A.exp(), B, C, backend=backend)


def _dual_case(length: int, heads: int, width: int, states: int, *, causal: bool) -> OpCase:
    shapes = [(1, length, heads, width), (1, length, heads), (heads,), *[(1, length, 1, states)] * 2]
    return OpCase(f"{length} x {heads} x {width}, {states} states", shapes, partial(_dual, causal=causal))


def _less(*inputs: Tensor, backend: Any) -> Any:
    *qkv, weight = inputs
    return less_attention.less_attention(*qkv, weight=weight, backend=backend)


def _less_case(bands: int, places: int, heads: int, band: int, place: int) -> OpCase:
    dim = heads * band * place
    shapes = [*[(1, 1, heads, bands, band)] * 3, *[(1, 1, heads, places, place)] * 3, (dim, dim)]
    return OpCase(f"{bands} x {places} x {dim}", shapes, _less)


OPS: dict[str, Op] = {
    "swiglu": Op(swiglu.choose_backend, _gated(37, 129), [_gated(1024, 256), _gated(32768, 512)]),
    "linear": Op(linear.choose_backend, _mapped(300, 160, 96), [_mapped(6272, 96, 288), _mapped(392, 384, 1536)]),
    "local_attention": Op(
        local_attention.choose_backend,
        _attention((9, 10), windows((4, 4), shift=(2, 1)), 3, 16, "4 x 4"),
        [
            _attention((56, 56), windows((7, 7), shift=(3, 3)), 3, 32, "7 x 7"),
            _attention((64, 64), windows((16, 16), shift=(8, 8)), 6, 30, "16 x 16"),
            _attention((28, 28, 28), windows((7, 7, 7), shift=(3, 3, 3)), 3, 16, "7 x 7 x 7"),
            _attention((56, 56), neighborhood((7, 7)), 3, 32, "neighbourhoods of 7 x 7"),
        ],
    ),
    "selective_scan": Op(
        selective_scan.choose_backend,
        _scanned((7, 9), 20, 5),
        [_scanned((1024,), 192, 16), _scanned((28, 28), 96, 1)],
    ),
    "instance_norm_act": Op(
        instance_norm_act.choose_backend, _normed(2, 5, 6, 7, 19), [_normed(1, 128, 128, 64), _normed(1, 48, 48, 48, 48)]
    ),
    "layer_norm_residual": Op(
        layer_norm_residual.choose_backend, _residual(5, 7, 33), [_residual(3136, 96), _residual(784, 384)]
    ),
    "conv": Op(conv.choose_backend, _full((9, 10), 21, 19), [_full((64, 64), 180, 60), _full((128, 128), 64, 64)]),
    "conv_volume": Op(  # the same function; its kernel serves two dtypes, as that of conv_transpose does
        conv_transpose.choose_backend, _full((9, 8, 10), 21, 19), [_full((48, 48, 48), 48, 48), _full((24, 24, 24), 96, 96)]
    ),
    "conv_moments": Op(
        conv_transpose.choose_backend,
        _moments((9, 8, 10), 21, 19),
        [_moments((48, 48, 48), 48, 48), _moments((24, 24, 24), 96, 96)],
    ),
    "affine_act": Op(
        affine_act.choose_backend,
        _affine_case(2, 5, 6, 7, 19),
        [_affine_case(1, 48, 48, 48, 48), _affine_case(1, 24, 24, 24, 96)],
    ),
    "conv_transpose": Op(
        conv_transpose.choose_backend,
        _transposed((5, 6, 7), 21, 19),
        [_transposed((48, 48, 48), 48, 48), _transposed((64, 64), 96, 48)],
    ),
    "depthwise_conv": Op(
        depthwise_conv.choose_backend,
        _convolved((6, 7), 19, 3),
        [_convolved((4096,), 384, 4), _convolved((56, 56), 96, 7), _convolved((32, 32, 32), 48, 3)],
    ),
    "linear_attention": Op(
        _only_eager,
        OpCase("2 x 50 x 8", [(2, 50, 8)] * 3, linear_attention.linear_attention),
        [OpCase("8 x 4096 x 32", [(8, 4096, 32)] * 3, linear_attention.linear_attention)],
    ),
    "retention": Op(
        _only_eager,
        OpCase("70 x 2 x 8", [(2, 70, 2, 8)] * 3 + [(2,)], _retain),
        [OpCase("1024 x 4 x 64", [(1, 1024, 4, 64)] * 3 + [(4,)], _retain)],
    ),
    "less_attention": Op(_only_eager, _less_case(5, 7, 2, 3, 6), [_less_case(61, 257, 6, 4, 16)]),
    "ssd": Op(_only_eager, _dual_case(70, 2, 8, 6, causal=True), [_dual_case(1024, 6, 64, 64, causal=True)]),
    "ssd_noncausal": Op(_only_eager, _dual_case(70, 2, 8, 6, causal=False), [_dual_case(1024, 6, 64, 64, causal=False)]),
}


def answers(case: OpCase, inputs: Sequence[Tensor], backend: str) -> list[Tensor]:
    """Return the op's results and, if it trains, the gradients of all inputs, for fixed random gradients of the results."""
    if not case.trains:
        with torch.no_grad():
            return case.outputs(inputs, backend)
    leaves = [x.detach().requires_grad_() for x in inputs]
    outputs = case.outputs(leaves, backend)
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(out.shape, generator=generator).to(out) for out in outputs]
    return [*(out.detach() for out in outputs), *torch.autograd.grad(outputs, leaves, grads)]


def error(got: Sequence[Tensor], want: Sequence[Tensor]) -> float:
    """Return the largest difference over all tensors, each relative to the largest entry of what is wanted; NaN stays NaN."""
    errors = [(g.cpu().double() - w.cpu().double()).abs().max() / w.abs().max().cpu() for g, w in zip(got, want, strict=True)]
    return float(torch.stack(errors).max())
