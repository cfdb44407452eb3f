"""Instance norm with residual and activation: the readable truth that every backend is compared with.

Shapes: B batch, S tokens of an image, C channels.
"""

import torch
from torch import Tensor

from .._activation import Activation, activate


def instance_norm_act(
    x: Tensor,
    weight_C: Tensor | None,
    bias_C: Tensor | None,
    residual: Tensor | None,
    eps: float,
    activation: Activation,
    slope: float,
) -> Tensor:
    """Compute act(w (x - mean) / sqrt(var + eps) + b + residual), in at least float32 and rounded once."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    x_BSC = x.to(dtype).flatten(1, -2)
    centered_BSC = x_BSC - x_BSC.mean(1, keepdim=True)
    variance_B1C = centered_BSC.square().mean(1, keepdim=True)
    u = (centered_BSC * torch.rsqrt(variance_B1C + eps)).reshape(x.shape)
    if weight_C is not None:
        u = u * weight_C.to(dtype)
    if bias_C is not None:
        u = u + bias_C.to(dtype)
    if residual is not None:
        u = u + residual.to(dtype)
    return activate(u, activation, slope).to(x.dtype)
