"""Arithmetic in memory that is not needed any more.

A large result in fresh memory costs more than its arithmetic: the system clears every page of it first.
"""

import torch
from torch import Tensor


def _may(own: Tensor, other: Tensor) -> bool:
    return (
        not torch.is_grad_enabled() and own.dtype == other.dtype and own.shape == torch.broadcast_shapes(own.shape, other.shape)
    )


def add(own: Tensor, other: Tensor) -> Tensor:
    """Return own + other, in the memory of ``own`` where no gradient is asked for; the caller must have no more use for it."""
    return own.add_(other) if _may(own, other) else own + other


def multiply(own: Tensor, other: Tensor) -> Tensor:
    """Return own * other, in the memory of ``own`` where no gradient is asked for; the caller must have no more use for it."""
    return own.mul_(other) if _may(own, other) else own * other
