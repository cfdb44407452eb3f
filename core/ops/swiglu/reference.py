"""SwiGLU's gate: the readable truth that every backend is compared with."""

import torch
from torch import Tensor


def swiglu(gate: Tensor, value: Tensor) -> Tensor:
    """Compute gate * sigmoid(gate) * value, elementwise, in at least float32 and rounded once (Shazeer 2020, equation 6)."""
    dtype = torch.promote_types(gate.dtype, torch.float32)
    wide = gate.to(dtype)
    return (wide * torch.sigmoid(wide) * value.to(dtype)).to(gate.dtype)
