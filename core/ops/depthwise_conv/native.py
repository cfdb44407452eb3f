"""Depthwise convolution with bias and activation by the compiled CPU kernel."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...native import native_status
from .._activation import ACTIVATIONS, Activation


def _fake(
    x: Tensor, _kernel: Tensor, _bias: Tensor, _before: list[int], _activation: int, _slope: float, keep: bool
) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    return out, torch.empty_like(out) if keep else x.new_empty(0)


def _fake_activation_gradient(_grad: Tensor, before: Tensor, _activation: int, _slope: float) -> Tensor:
    return torch.empty_like(before, memory_format=torch.contiguous_format)


def _fake_kernel_gradient(_grad: Tensor, _x: Tensor, kernel: Tensor, _before: list[int]) -> tuple[Tensor, Tensor]:
    return torch.empty_like(kernel, memory_format=torch.contiguous_format), kernel.new_empty(kernel.shape[-1])


if native_status()[0]:
    # Shapes for tracing; in C++ they would need the whole of torch, not its stable ABI.
    torch.library.register_fake("geovit::depthwise_conv", _fake)
    torch.library.register_fake("geovit::depthwise_conv_activation_gradient", _fake_activation_gradient)
    torch.library.register_fake("geovit::depthwise_conv_kernel_gradient", _fake_kernel_gradient)


class _DepthwiseConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kernel: Tensor, bias: Tensor, before: tuple[int, ...], activation: int, slope: float, keep: bool
    ) -> Tensor:
        out, kept = torch.ops.geovit.depthwise_conv(x, kernel, bias, before, activation, slope, keep)
        ctx.save_for_backward(x, kernel, kept)
        ctx.before, ctx.activation, ctx.slope = before, activation, slope
        result: Tensor = out
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, kernel, kept = ctx.saved_tensors
        if ctx.activation:
            grad = torch.ops.geovit.depthwise_conv_activation_gradient(grad, kept, ctx.activation, ctx.slope)
        grad_x = grad_kernel = grad_bias = None
        if ctx.needs_input_grad[0]:
            after = [k - 1 - b for k, b in zip(kernel.shape, ctx.before, strict=False)]
            none = kernel.new_zeros(kernel.shape[-1])
            grad_x, _ = torch.ops.geovit.depthwise_conv(grad, kernel.flip(0, 1, 2), none, after, 0, 0.0, False)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            grad_kernel, grad_bias = torch.ops.geovit.depthwise_conv_kernel_gradient(grad, x, kernel, ctx.before)
        return grad_x, grad_kernel, grad_bias, None, None, None, None


def depthwise_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, before: tuple[int, ...], activation: Activation, slope: float
) -> Tensor:
    """Convolve CPU tensors in float32 or bfloat16; the result is contiguous."""
    missing = (1,) * (5 - x.ndim)  # the kernel knows three axes
    image = x.reshape(x.shape[0], *missing, *x.shape[1:])
    kernel = weight.float().flatten(0, 1).movedim(0, -1).reshape(*missing, *weight.shape[2:], x.shape[-1])
    bias = kernel.new_zeros(x.shape[-1]) if bias is None else bias.float()
    # What the activation is applied to is written and kept only if a backward may follow.
    keep = activation != "none" and torch.is_grad_enabled() and any(t.requires_grad for t in (image, kernel, bias))
    before = (0,) * len(missing) + before
    out: Tensor = _DepthwiseConv.apply(image, kernel, bias, before, ACTIVATIONS.index(activation), slope, keep)
    return out.view(x.shape)
