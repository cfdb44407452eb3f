"""Convolution of 3 x 3 by the compiled CPU kernel, and its gradients.

Shapes: B batch, H and W image, C channels in, O channels out.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...native import native_status
from .._activation import ACTIVATIONS, Activation, activate

DTYPES = (torch.float32,)
LEAST = 16  # channels: a vector of the widest instruction set


def fits(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernel serves these shapes."""
    return x.ndim == 4 and tuple(weight.shape[2:]) == (3, 3) and min(weight.shape[:2]) >= LEAST


def _fake(x_BHWC: Tensor, weight: Tensor, _bias: Tensor | None, _activation: int, _slope: float) -> Tensor:
    return x_BHWC.new_empty((*x_BHWC.shape[:-1], weight.shape[0]))


if native_status()[0]:
    # Shapes for tracing; in C++ they would need the whole of torch, not its stable ABI.
    torch.library.register_fake("geovit::conv3x3", _fake)


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BHWC: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_BHWC, weight)
        out: Tensor = torch.ops.geovit.conv3x3(x_BHWC, weight, bias, 0, 0.0)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BHWO: Tensor) -> tuple[Tensor | None, ...]:
        x_BHWC, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        grad_x = grad_weight = None
        if needs_x:  # the same sum with the kernel turned round
            turned = weight.transpose(0, 1).flip(2, 3)
            grad_x = torch.ops.geovit.conv3x3(grad_BHWO, turned, None, 0, 0.0)
        if needs_weight:
            _, grad_weight, _ = torch.ops.aten.convolution_backward(
                grad_BHWO.movedim(-1, 1),
                x_BHWC.movedim(-1, 1),
                weight,
                None,
                [1, 1],
                [1, 1],
                [1, 1],
                False,
                [0, 0],
                1,
                [False, True, False],
            )
        return grad_x, grad_weight, grad_BHWO.sum((0, 1, 2)) if needs_bias else None


def conv(x_BHWC: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation, slope: float) -> Tensor:
    """Convolve float32 tensors of the CPU that ``fits`` accepts; the result is contiguous."""
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x_BHWC, weight, bias)):
        return activate(_Conv.apply(x_BHWC, weight, bias), activation, slope)
    # No gradient asks for what lies before the activation.
    out: Tensor = torch.ops.geovit.conv3x3(x_BHWC, weight, bias, ACTIVATIONS.index(activation), slope)
    return out
