"""Arithmetic in memory that is not needed any more.

A large result in fresh memory costs more than its arithmetic: the system clears every page of it first. What a forward hook keeps
of a layer whose result is reused is overwritten as by PyTorch's ``inplace=True``: it should keep a copy, or ask for gradients.
"""

import torch
from torch import Tensor


def _may(own: Tensor, *others: Tensor) -> bool:
    return not torch.is_grad_enabled() and all(_fits(own, other) for other in others)


def _fits(own: Tensor, other: Tensor) -> bool:
    sizes = zip(reversed(other.shape), reversed(own.shape), strict=False)
    return other.dtype == own.dtype and other.ndim <= own.ndim and all(n in (1, m) for n, m in sizes)


def add(own: Tensor, other: Tensor, scale: Tensor | None = None) -> Tensor:
    """Return own + other * scale, in the memory of ``own`` where no gradient is asked for; the caller has no more use for it."""
    if scale is None:
        return own.add_(other) if _may(own, other) else own + other
    return own.addcmul_(other, scale) if _may(own, other, scale) else torch.addcmul(own, other, scale)


def multiply(own: Tensor, other: Tensor) -> Tensor:
    """Return own * other, in the memory of ``own`` where no gradient is asked for; the caller has no more use for it."""
    return own.mul_(other) if _may(own, other) else own * other
