"""Convolution of 3 x 3 x 3 by the compiled CPU kernel, and its gradients.

Shapes: B batch, D, H and W volume, C channels in, O channels out.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...native import native_status
from .._activation import Activation, activate

DTYPES = (torch.float32, torch.bfloat16)
LEAST_POSITIONS = 256  # of all images together; below, one product with the kernel as it lies is faster
LEAST = 16  # channels of each of two inputs: a vector of the widest instruction set

Moments = tuple[Tensor, Tensor, Tensor]  # y, and mean and variance of every image and channel


def fits(x: Tensor, weight: Tensor, beside: Tensor | None) -> bool:
    """Whether the kernel serves these shapes."""
    wide = beside is None or min(x.shape[-1], beside.shape[-1]) >= LEAST
    return x.ndim == 5 and tuple(weight.shape[2:]) == (3, 3, 3) and wide and min(weight.shape[:2]) > 0


def pays(x: Tensor) -> bool:
    """Whether the kernel is faster than PyTorch's: taking the weights to all points is repaid by the positions that use them."""
    return x.shape[:-1].numel() >= LEAST_POSITIONS


def _fake(
    x: Tensor,
    _beside: Tensor | None,
    weight: Tensor,
    _bias: Tensor | None,
    _mean: Tensor | None,
    _factor: Tensor | None,
    _offset: Tensor | None,
    _before: float,
    _slope: float,
    moments: bool,
) -> Moments:
    out = weight.shape[0]
    of_channels = (x.shape[0] if moments else 0, out)
    y = x.new_empty((*x.shape[:-1], out))
    return y, x.new_empty(of_channels, dtype=torch.float32), x.new_empty(of_channels, dtype=torch.float32)


def _fake_weight(x: Tensor, beside: Tensor | None, grad: Tensor) -> Tensor:
    channels = x.shape[-1] + (0 if beside is None else beside.shape[-1])
    return x.new_empty((grad.shape[-1], channels, 3, 3, 3), dtype=torch.float32)


if native_status()[0]:
    # Shapes for tracing; in C++ they would need the whole of torch, not its stable ABI.
    torch.library.register_fake("geovit::conv3x3x3", _fake)
    torch.library.register_fake("geovit::conv3x3x3_weight", _fake_weight)


def _plain(x: Tensor, beside: Tensor | None, weight: Tensor, bias: Tensor | None, slope: float = 1.0) -> Tensor:
    out: Tensor = torch.ops.geovit.conv3x3x3(x, beside, weight, bias, None, None, None, 0.0, slope, False)[0]
    return out


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, beside: Tensor | None, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, beside, weight)
        ctx.bias_dtype = None if bias is None else bias.dtype
        return _plain(x, beside, weight.float(), None if bias is None else bias.float())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, beside, weight = ctx.saved_tensors
        needs_x, needs_beside, needs_weight, needs_bias = ctx.needs_input_grad
        grad = grad.to(x.dtype)
        turned = weight.float().transpose(0, 1).flip(2, 3, 4)  # the same sum with the kernel turned round
        first = x.shape[-1]
        grad_x = _plain(grad, None, turned[:first], None) if needs_x else None
        grad_beside = _plain(grad, None, turned[first:], None) if needs_beside else None
        grad_weight = grad_bias = None
        if needs_weight:
            grad_weight = torch.ops.geovit.conv3x3x3_weight(x, beside, grad).to(weight.dtype)
        if needs_bias:
            grad_bias = grad.sum((0, 1, 2, 3), dtype=torch.float32).to(ctx.bias_dtype)
        return grad_x, grad_beside, grad_weight, grad_bias


def conv(x: Tensor, weight: Tensor, bias: Tensor | None, beside: Tensor | None, activation: Activation, slope: float) -> Tensor:
    """Convolve tensors of the CPU that ``fits`` accepts, rounded once; the result is contiguous."""
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, beside, weight, bias)):
        return activate(_Conv.apply(x, beside, weight, bias), activation, slope)
    fused = activation in ("none", "leaky_relu")  # no gradient asks for what lies before
    out = _plain(x, beside, weight.float(), None if bias is None else bias.float(), slope if activation == "leaky_relu" else 1.0)
    return out if fused else activate(out, activation, slope)


def moments(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    beside: Tensor | None,
    before: tuple[Tensor, Tensor, Tensor] | None,
    before_slope: float,
) -> Moments:
    """Convolve, and take the moments of the result; without a gradient."""
    mean, factor, offset = (None, None, None) if before is None else (t.float() for t in before)
    found: Moments = torch.ops.geovit.conv3x3x3(
        x, beside, weight.float(), None if bias is None else bias.float(), mean, factor, offset, before_slope, 1.0, True
    )
    return found
