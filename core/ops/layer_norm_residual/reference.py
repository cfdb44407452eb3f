"""Residual with layer scale and the norm after it: the readable truth that every backend is compared with."""

import torch
from torch import Tensor


def layer_norm_residual(
    x: Tensor, branch: Tensor, scale: Tensor | None, weight: Tensor | None, bias: Tensor | None, eps: float, rms: bool
) -> tuple[Tensor, Tensor]:
    """Compute s = x + scale * branch and its norm over the last axis, in at least float32."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    s = x.to(dtype) + (branch.to(dtype) if scale is None else scale.to(dtype) * branch.to(dtype))
    centered = s if rms else s - s.mean(-1, keepdim=True)
    y = centered * torch.rsqrt(centered.square().mean(-1, keepdim=True) + eps)
    if weight is not None:
        y = y * weight.to(dtype)
    if bias is not None:
        y = y + bias.to(dtype)
    return s.to(x.dtype), y.to(x.dtype)
