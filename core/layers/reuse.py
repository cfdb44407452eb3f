"""Arithmetic in memory that is not needed any more.

A large result in fresh memory costs more than its arithmetic: the system clears every page of it first. What a forward hook keeps
of a layer whose result is reused is overwritten as by PyTorch's ``inplace=True``: it should keep a copy, or ask for gradients.
"""

from collections.abc import Callable

import torch
from torch import Tensor

_PART = 1 << 22  # numbers between two layers: a part of them stays in a CPU's cache


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


def by_parts(function: Callable[[Tensor], Tensor], x: Tensor, width: int) -> Tensor:
    """Return function(x), which treats the vectors on the last axis alone, computed for some of them at a time.

    So what lies between its layers never is in memory as a whole. Where a gradient is asked for it would be kept in any case, and
    the function is called once.

    Args:
        function: (..., channels) to (..., others).
        x: (..., channels).
        width: the most numbers for each vector that the function makes on its way.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return function(x)
    rows, part = x.shape[:-1].numel(), max(_PART // width, 256)
    if rows < 2 * part:
        return function(x)
    flat, out = x.reshape(rows, -1), None
    for start in range(0, rows, part):
        y = function(flat[start : start + part])
        out = y.new_empty(rows, y.shape[-1]) if out is None else out
        out[start : start + part] = y
    assert out is not None
    return out.reshape(*x.shape[:-1], -1)
