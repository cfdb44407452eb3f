"""Instance norm with residual and activation by calls of PyTorch: any device, any floating dtype."""

import torch
from torch import Tensor

from ...device import without_autocast
from .._activation import Activation, activate


def instance_norm_act(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    activation: Activation,
    slope: float,
) -> Tensor:
    """Compute act(instance_norm(x) * weight + bias + residual); in half precision rounded after each step."""
    weight, bias = (None if p is None else p.to(x.dtype) for p in (weight, bias))
    # A group for each channel. F.instance_norm computes the same, but refuses one token.
    # Over channels-last memory group_norm subtracts squares, which loses the digits of a mean much larger than the deviation.
    planes = x.movedim(-1, 1).contiguous()
    with without_autocast(x.device):  # which must not choose another dtype than that of x
        u = torch.group_norm(planes, x.shape[-1], weight, bias, eps).movedim(1, -1)
    return activate(u if residual is None else u + residual, activation, slope)
