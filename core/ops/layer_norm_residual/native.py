"""Residual with layer scale and the norm after it by the compiled CPU kernel: one pass over memory forward, one backward."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...native import native_status


def _fake(
    x: Tensor, _branch: Tensor, _scale: Tensor | None, _weight: Tensor, _bias: Tensor, _eps: float, _rms: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    s = torch.empty_like(x, memory_format=torch.contiguous_format)
    mean = x.new_empty(x.shape[0], dtype=torch.float32)
    return s, torch.empty_like(s), mean, torch.empty_like(mean)


def _fake_backward(
    _grad_s: Tensor,
    _grad_y: Tensor,
    s: Tensor,
    _mean: Tensor,
    _rstd: Tensor,
    _branch: Tensor,
    scale: Tensor | None,
    weight: Tensor,
    _rms: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_x = torch.empty_like(s, memory_format=torch.contiguous_format)
    return grad_x, s.new_empty(0) if scale is None else torch.empty_like(grad_x), weight.new_empty(3, len(weight))


if native_status()[0]:
    # Shapes for tracing; in C++ they would need the whole of torch, not its stable ABI.
    torch.library.register_fake("geovit::layer_norm_residual", _fake)
    torch.library.register_fake("geovit::layer_norm_residual_backward", _fake_backward)


class _LayerNormResidual(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, branch: Tensor, scale: Tensor | None, weight: Tensor, bias: Tensor, eps: float, rms: bool
    ) -> tuple[Tensor, Tensor]:
        s, y, mean, rstd = torch.ops.geovit.layer_norm_residual(x, branch, scale, weight, bias, eps, rms)
        # The branch is needed for the gradient of the scale only.
        ctx.save_for_backward(s, mean, rstd, None if scale is None else branch, scale, weight)
        ctx.rms = rms
        return s, y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_s: Tensor, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        s, mean, rstd, branch, scale, weight = ctx.saved_tensors
        grad_x, grad_branch, sums = torch.ops.geovit.layer_norm_residual_backward(
            grad_s, grad_y, s, mean, rstd, s if branch is None else branch, scale, weight, ctx.rms
        )
        grad_weight, grad_bias, grad_scale = sums.unbind()
        if scale is None:
            return grad_x, grad_x, None, grad_weight, grad_bias, None, None
        return grad_x, grad_branch, grad_scale, grad_weight, grad_bias, None, None


def layer_norm_residual(
    x: Tensor, branch: Tensor, scale: Tensor | None, weight: Tensor | None, bias: Tensor | None, eps: float, rms: bool
) -> tuple[Tensor, Tensor]:
    """Compute s = x + scale * branch and its norm on CPU tensors in float32 or bfloat16; both results are contiguous."""
    channels = x.shape[-1]
    weight = x.new_ones(channels, dtype=torch.float32) if weight is None else weight.float()
    bias = x.new_zeros(channels, dtype=torch.float32) if bias is None else bias.float()
    scale = None if scale is None else scale.float()
    s, y = _LayerNormResidual.apply(x.reshape(-1, channels), branch.reshape(-1, channels), scale, weight, bias, eps, rms)
    return s.view(x.shape), y.view(x.shape)
