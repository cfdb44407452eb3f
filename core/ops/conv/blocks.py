"""Convolutions whose stride is their kernel, 1 x 1 x 1 among them, and their transposes, by the compiled CPU kernel.

All are one matrix product of rows that are gathered from small blocks of positions, or scattered to them.
Shapes: B batch, S one to three spatial axes, C channels in, O channels out, T taps of the kernel.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...native import native_status
from .._activation import Activation, activate

Moments = tuple[Tensor, Tensor, Tensor]  # y, and mean and variance of every image and channel


def _fake(
    x: Tensor,
    _beside: Tensor | None,
    weight: Tensor,
    _bias: Tensor | None,
    from_deep: int,
    from_high: int,
    from_wide: int,
    to_deep: int,
    to_high: int,
    to_wide: int,
    _slope: float,
    moments: bool,
) -> Moments:
    out = weight.shape[1]
    size = (x.shape[1] // from_deep * to_deep, x.shape[2] // from_high * to_high, x.shape[3] // from_wide * to_wide)
    of_channels = (x.shape[0] if moments else 0, out)
    y = x.new_empty((x.shape[0], *size, out))
    return y, x.new_empty(of_channels, dtype=torch.float32), x.new_empty(of_channels, dtype=torch.float32)


if native_status()[0]:
    # Shapes for tracing; in C++ they would need the whole of torch, not its stable ABI.
    torch.library.register_fake("geovit::blocks_linear", _fake)


def fits(x: Tensor, weight: Tensor) -> bool:
    """Whether this is a map of every position."""
    return weight.shape[2:].numel() == 1 and min(weight.shape[:2]) > 0 and 3 <= x.ndim <= 5


def _as_volume(x: Tensor) -> Tensor:
    return x if x.ndim == 5 else x.reshape(x.shape[0], *(1,) * (5 - x.ndim), *x.shape[1:])


def _rows(x: Tensor, kernel: tuple[int, ...]) -> Tensor:
    """(B, S, C) to (rows, T C): the positions of each block together."""
    batch, *size, channels = x.shape
    if math.prod(kernel) == 1:
        return x.reshape(-1, channels)
    split = [n for s, k in zip(size, kernel, strict=True) for n in (s // k, k)]
    axes = len(kernel)
    order = (0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 2 * axes + 1)
    return x.reshape(batch, *split, channels).permute(order).reshape(-1, math.prod(kernel) * channels)


def run(
    x: Tensor,
    beside: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    *,
    gathered: tuple[int, ...],
    scattered: tuple[int, ...],
    slope: float = 1.0,
    moments: bool = False,
) -> Moments:
    """Map rows: weight is (taps scattered, O, taps gathered, C)."""
    axes = x.ndim - 2
    ones = (1,) * (3 - axes)
    y, mean, variance = torch.ops.geovit.blocks_linear(
        _as_volume(x),
        None if beside is None else _as_volume(beside),
        weight,
        bias,
        *ones,
        *gathered,
        *ones,
        *scattered,
        slope,
        moments,
    )
    return y.reshape(x.shape[0], *y.shape[4 - axes :]), mean, variance


def _float(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float()


class _Pointwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, beside: Tensor | None, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, beside, weight)
        ctx.bias_dtype = None if bias is None else bias.dtype
        return pointwise(x, beside, weight, bias)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, beside, weight = ctx.saved_tensors
        needs_x, needs_beside, needs_weight, needs_bias = ctx.needs_input_grad
        ones, first = (1,) * (x.ndim - 2), x.shape[-1]
        turned = weight.detach().float().flatten(1).transpose(0, 1)[None, :, None]  # (1, C, 1, O)

        def back(part: Tensor) -> Tensor:
            return run(grad.to(x.dtype), None, part, None, gathered=ones, scattered=ones)[0]

        grad_x = back(turned[:, :first]) if needs_x else None
        grad_beside = back(turned[:, first:]) if needs_beside else None
        rows = grad.reshape(-1, grad.shape[-1]).float()
        grad_weight = None
        if needs_weight:
            parts = [rows.T @ t.reshape(-1, t.shape[-1]).float() for t in (x, beside) if t is not None]
            grad_weight = torch.cat(parts, 1).reshape(weight.shape).to(weight.dtype)
        return grad_x, grad_beside, grad_weight, rows.sum(0).to(ctx.bias_dtype) if needs_bias else None


def pointwise(
    x: Tensor, beside: Tensor | None, weight: Tensor, bias: Tensor | None, slope: float = 1.0, moments: bool = False
) -> Moments:
    """Map every position; without a gradient."""
    ones = (1,) * (x.ndim - 2)
    matrix = weight.detach().float().flatten(1)[None, :, None]
    return run(x, beside, matrix, _float(bias), gathered=ones, scattered=ones, slope=slope, moments=moments)


def pointwise_act(
    x: Tensor, weight: Tensor, bias: Tensor | None, beside: Tensor | None, activation: Activation, slope: float
) -> Tensor:
    """Map every position, then apply the activation."""
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, beside, weight, bias)):
        return activate(_Pointwise.apply(x, beside, weight, bias), activation, slope)
    out = pointwise(x, beside, weight, bias, slope if activation == "leaky_relu" else 1.0)[0]
    return out if activation in ("none", "leaky_relu") else activate(out, activation, slope)


class _Transposed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.bias_dtype = None if bias is None else bias.dtype
        kernel = tuple(weight.shape[2:])
        matrix = weight.detach().float().flatten(2).permute(2, 1, 0)[:, :, None]  # (T, O, 1, C)
        return run(x, None, matrix, _float(bias), gathered=(1,) * len(kernel), scattered=kernel)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        kernel = tuple(weight.shape[2:])
        grad = grad.to(x.dtype)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            matrix = weight.detach().float().flatten(2).permute(0, 2, 1)[None]  # (1, C, T, O)
            grad_x = run(grad, None, matrix, None, gathered=kernel, scattered=(1,) * len(kernel))[0]
        if ctx.needs_input_grad[1]:
            channels, out = weight.shape[:2]
            found = x.reshape(-1, channels).float().T @ _rows(grad, kernel).float()
            grad_weight = found.view(channels, -1, out).transpose(1, 2).reshape(weight.shape).to(weight.dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.flatten(0, -2).sum(0, dtype=torch.float32).to(ctx.bias_dtype)
        return grad_x, grad_weight, grad_bias


def transposed(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Transpose the convolution whose stride is its kernel: weight is (C, O, *kernel)."""
    out: Tensor = _Transposed.apply(x, weight, bias)
    return out
