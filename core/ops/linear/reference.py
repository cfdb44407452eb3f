"""The affine map of a linear layer: the readable truth that every backend is compared with.

Shapes: I channels in, O channels out.
"""

import torch
from torch import Tensor


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """Compute y_o = sum_i W_oi x_i + b_o, in at least float32 and rounded once."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    y = torch.einsum("...i,oi->...o", x.to(dtype), weight_OI.to(dtype))
    return (y if bias_O is None else y + bias_O.to(dtype)).to(x.dtype)
