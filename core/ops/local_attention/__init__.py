"""Attention to what is near, by a rule for each axis: windows, grids, neighbourhoods on one to three spatial axes."""

from typing import Literal, get_args

import torch
from torch import Tensor

from ...device import triton_status
from .._backends import Chosen, Status, choose, exporting, native_serves, resolve
from . import eager, native, reference, traced
from .pattern import Axis, FlatWindows, Grid, Neighborhood, Pattern, Window, grid, neighborhood, windows
from .prepare import prepare

__all__ = [
    "Axis",
    "Backend",
    "FlatWindows",
    "Grid",
    "Neighborhood",
    "Pattern",
    "Window",
    "choose_backend",
    "grid",
    "local_attention",
    "neighborhood",
    "windows",
]

Backend = Literal["auto", "reference", "eager", "native", "triton"]
Activation = Literal["softmax", "sigmoid"]

_TRITON_HEAD_DIM = 256  # the shared memory of a GPU holds no more of the rows that a program works on


def choose_backend(device: torch.device, dtype: torch.dtype, head_dim: int = 64) -> tuple[Chosen, str]:
    """Return what ``backend="auto"`` means for tensors of this device, dtype and head width, and the reason."""
    return choose(device, _kernels(device, dtype, head_dim))


def _kernels(device: torch.device, dtype: torch.dtype, head_dim: int) -> dict[Chosen, Status]:
    triton = triton_status(device, dtype)
    if triton[0] and head_dim > _TRITON_HEAD_DIM:
        triton = False, f"the Triton kernel serves head widths up to {_TRITON_HEAD_DIM}, not {head_dim}"
    return {"native": native_serves(device, dtype, native.DTYPES), "triton": triton}


def local_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    *,
    bias_table: Tensor | None = None,
    scale: float | Tensor | None = None,
    padding: tuple[Tensor, Tensor] | None = None,
    cosine: bool = False,
    activation: Activation = "softmax",
    dropout: float = 0.0,
    backend: Backend = "auto",
) -> Tensor:
    """Attend from every position to those that the pattern gives it.

    A pattern is a rule for each spatial axis, made by ``windows``, ``grid`` or ``neighborhood``, or a tuple of ``Window``,
    ``Grid`` and ``Neighborhood`` in any mixture (or the one ``FlatWindows`` of an image whose axes are taken as one). A query
    attends to a key if every axis' rule says so.

    Args:
        q, k, v: (batch, *size, heads, head_dim), floating, any strides. They may differ in nothing but values.
        pattern: one rule for each spatial axis.
        bias_table: (product of the axes' rows, heads), added to the scores. The row of a pair is the row-major index of the
            rows that the rules give it on their axes.
        scale: factor of the scores, a number or a tensor (heads,). Default ``head_dim ** -0.5``.
        padding: key and value, each (heads, head_dim), of every position outside the image that a rule reaches. They are
            seen as keys and not masked, as in networks that pad with zeros before or after the projection. By default
            there are none.
        cosine: whether q and k (and the padding's key) are divided by their norms first (Swin V2, Liu et al. 2022,
            section 3.2).
        activation: "softmax" over the keys, or "sigmoid" of each score for itself.
        dropout: probability to set a weight to zero, and the others are divided by 1 - dropout (Srivastava et al. 2014); of
            "eager" alone, which "auto" then is. All weights are kept for the backward pass.
        backend: "reference" is readable and slow, "eager" runs anywhere, "native" is the compiled kernel for the CPU,
            "triton" runs on GPUs; "auto" takes the best one. The result differs by rounding only.

    Returns:
        (batch, *size, heads, head_dim) in the dtype of ``q``. The softmax is taken in at least float32.
        "native" and "triton" cannot be differentiated twice.

    Raises:
        ValueError: if shapes, dtypes, devices or the pattern do not agree, or for an unknown option.
    """
    _check(q, k, v, pattern, bias_table, scale, padding, activation)
    if not 0 <= dropout < 1 or (dropout and backend not in ("auto", "eager")):
        raise ValueError(f"local_attention: dropout is {dropout} with backend {backend!r}, expected 0 <= dropout < 1 and 'eager'")
    backend = "eager" if dropout else backend
    chosen = resolve("local_attention", backend, get_args(Backend), q.device, _kernels(q.device, q.dtype, q.shape[-1]))
    if not exporting() and q.numel() == 0:
        return v.clone()
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if exporting() and chosen == "eager":
        return traced.local_attention(q, k, v, pattern, bias_table, scale, padding, cosine, activation)
    if chosen == "reference":
        return reference.local_attention(q, k, v, pattern, bias_table, scale, padding, cosine, activation)
    if chosen == "native":
        return native.local_attention(q, k, v, pattern, bias_table, scale, padding, cosine, activation)
    problem = prepare(q, k, v, pattern, bias_table=bias_table, scale=scale, padding=padding, cosine=cosine, activation=activation)
    if chosen == "eager":
        return eager.attend(*problem, dropout)
    from . import triton

    return triton.attend(*problem)


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    bias_table: Tensor | None,
    scale: float | Tensor | None,
    padding: tuple[Tensor, Tensor] | None,
    activation: str,
) -> None:
    given = [(tuple(x.shape), x.dtype, x.device) for x in (q, k, v)]
    if not 4 <= q.ndim <= 6 or not q.is_floating_point() or any(other != given[0] for other in given[1:]):
        told = ", ".join(f"{list(shape)} {dtype} on {device}" for shape, dtype, device in given)
        raise ValueError(f"local_attention: q, k, v are {told}, expected one floating (batch, 1 to 3 axes, heads, head_dim)")
    size, (heads, head_dim) = tuple(q.shape[1:-2]), tuple(q.shape[-2:])
    # By the classes, not by their union: the compiler of torch 2.10 cannot follow that.
    rules = isinstance(pattern, tuple) and all(isinstance(axis, (Window, Grid, Neighborhood, FlatWindows)) for axis in pattern)
    if not rules or len(pattern) != len(size):
        raise ValueError(f"local_attention: pattern is {pattern}, expected a tuple of {len(size)} rules, one for each axis")
    for axis, length in zip(pattern, size, strict=True):
        if not exporting():  # where the length is variable
            axis.check(length)
    rows = 1
    for axis in pattern:
        rows *= axis.rows
    expected: dict[str, tuple[Tensor | None, tuple[int, ...]]] = {"bias_table": (bias_table, (rows, heads))}
    if isinstance(scale, Tensor):
        expected["scale"] = (scale, (heads,))
    if padding is not None:
        expected |= {"padding's key": (padding[0], (heads, head_dim)), "padding's value": (padding[1], (heads, head_dim))}
    for name, (tensor, shape) in expected.items():
        if tensor is not None and (tuple(tensor.shape) != shape or not tensor.is_floating_point() or tensor.device != q.device):
            told = f"{list(tensor.shape)} {tensor.dtype} on {tensor.device}"
            raise ValueError(f"local_attention: {name} is {told}, expected a floating {list(shape)} on {q.device}")
    if activation not in get_args(Activation):
        raise ValueError(f"local_attention: activation is {activation!r}, allowed are {', '.join(get_args(Activation))}")
