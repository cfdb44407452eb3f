"""The affine map of a linear layer: the readable truth that every backend is compared with.

Shapes: I channels in, O channels out.
"""

import torch
from torch import Tensor

from .._activation import Activation, activate


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, activation: Activation, slope: float) -> Tensor:
    """Compute y_o = activation(sum_i W_oi x_i + b_o), in at least float32 and rounded once."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    y = torch.einsum("...i,oi->...o", x.to(dtype), weight_OI.to(dtype))
    return activate(y if bias_O is None else y + bias_O.to(dtype), activation, slope).to(x.dtype)
