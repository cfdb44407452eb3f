"""The readable truth that the other backends are compared with."""

from itertools import product

import torch
from torch import Tensor


def conv_transpose(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Fill in tap by tap, in at least float32 and rounded once."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    kernel = weight.shape[2:]
    y = x.new_zeros((x.shape[0], *(s * k for s, k in zip(x.shape[1:-1], kernel, strict=True)), weight.shape[1]), dtype=dtype)
    for tap in product(*map(range, kernel)):
        places = (slice(None), *(slice(t, None, k) for t, k in zip(tap, kernel, strict=True)))
        y[places] = x.to(dtype) @ weight[(slice(None), slice(None), *tap)].to(dtype)
    return (y if bias is None else y + bias.to(dtype)).to(x.dtype)
