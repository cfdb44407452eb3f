"""Convolution: the readable truth that every backend is compared with."""

from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from .._activation import Activation, activate


def conv(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation, slope: float) -> Tensor:
    """Add up tap by tap, in at least float32 and rounded once."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    size, kernel = x.shape[1:-1], weight.shape[2:]
    padded = F.pad(x.to(dtype), (0, 0, *(k // 2 for k in reversed(kernel) for _ in range(2))))
    y = x.new_zeros((*x.shape[:-1], weight.shape[0]), dtype=dtype)
    for tap in product(*map(range, kernel)):
        seen, factor_OC = padded, weight.to(dtype)
        for axis, (at, length) in enumerate(zip(tap, size, strict=True)):
            seen, factor_OC = seen.narrow(1 + axis, at, length), factor_OC.select(2, at)
        y = y + torch.einsum("...c,oc->...o", seen, factor_OC)
    return activate(y if bias is None else y + bias.to(dtype), activation, slope).to(x.dtype)
