"""Zeros around tokens."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def fill_up(x: Tensor, multiple: Sequence[int]) -> Tensor:
    """Extend (batch, *size, dim) with zeros at the end of each axis to a multiple."""
    missing = [-n % m for n, m in zip(x.shape[1:-1], multiple, strict=True)]
    return F.pad(x, [0, 0, *(p for m in reversed(missing) for p in (0, m))]) if any(missing) else x
