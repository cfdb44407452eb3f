"""Instance norm with residual and activation by the compiled CPU kernel: two passes over memory forward, two backward."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...native import native_status
from .._activation import ACTIVATIONS, Activation


def _fake(
    x: Tensor, _weight: Tensor, _bias: Tensor, _residual: Tensor | None, _eps: float, _activation: int, _slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    statistics = x.new_empty(x.shape[0], x.shape[2], dtype=torch.float32)
    return torch.empty_like(x, memory_format=torch.contiguous_format), statistics, torch.empty_like(statistics)


def _fake_backward(
    _grad: Tensor,
    x: Tensor,
    _mean: Tensor,
    _rstd: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    _activation: int,
    _slope: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    grad_residual = x.new_empty(0) if residual is None else torch.empty_like(grad_x)
    return grad_x, torch.empty_like(weight), torch.empty_like(bias), grad_residual


if native_status()[0]:
    # Shapes for tracing; in C++ they would need the whole of torch, not its stable ABI.
    torch.library.register_fake("geovit::instance_norm_act", _fake)
    torch.library.register_fake("geovit::instance_norm_act_backward", _fake_backward)


class _InstanceNormAct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, eps: float, activation: int, slope: float
    ) -> Tensor:
        out, mean, rstd = torch.ops.geovit.instance_norm_act(x, weight, bias, residual, eps, activation, slope)
        # Without an activation the residual's gradient is that of the result, and nobody needs the residual.
        ctx.save_for_backward(x, weight, bias, residual if activation else None, mean, rstd)
        ctx.activation, ctx.slope, ctx.has_residual = activation, slope, residual is not None
        result: Tensor = out
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, residual, mean, rstd = ctx.saved_tensors
        grad_x, grad_weight, grad_bias, grad_residual = torch.ops.geovit.instance_norm_act_backward(
            grad, x, mean, rstd, weight, bias, residual, ctx.activation, ctx.slope
        )
        if residual is None:
            grad_residual = grad if ctx.has_residual else None
        return grad_x, grad_weight, grad_bias, grad_residual, None, None, None


def instance_norm_act(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    activation: Activation,
    slope: float,
) -> Tensor:
    """Compute the op on CPU tensors in float32 or bfloat16, rounded once; the result is contiguous."""
    channels = x.shape[-1]
    weight = x.new_ones(channels, dtype=torch.float32) if weight is None else weight.float()
    bias = x.new_zeros(channels, dtype=torch.float32) if bias is None else bias.float()
    tokens = x.flatten(1, -2)
    residual = None if residual is None else residual.flatten(1, -2)
    out: Tensor = _InstanceNormAct.apply(tokens, weight, bias, residual, eps, ACTIVATIONS.index(activation), slope)
    return out.view(x.shape)
