"""Attention inside the windows of a regular grid, for one, two or three spatial axes."""

from typing import Literal

from torch import Tensor

from . import eager, reference

__all__ = ["Backend", "local_attention"]

Backend = Literal["auto", "reference", "eager"]
_BACKENDS = {"auto": eager.local_attention, "eager": eager.local_attention, "reference": reference.local_attention}


def local_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: tuple[int, ...],
    shift: tuple[int, ...] | None = None,
    bias_table: Tensor | None = None,
    scale: float | None = None,
    padding: tuple[Tensor, Tensor] | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Attend from every position to the positions of its own window.

    Position x lies in window floor((x - shift) / window), on each axis. On sizes that the window divides this is the
    shifted window attention of Swin (Liu et al. 2021, section 3.2), without its roll and without its mask: the two
    windows that the roll joins at the border stay apart. On any other size the windows at the border hold fewer
    positions.

    Args:
        q, k, v: (batch, *size, heads, head_dim), floating, any strides. They may differ in nothing but values.
        window: positions per window, one number for each spatial axis.
        shift: offset of the window grid, ``0 <= shift < window`` on each axis. Default 0.
        bias_table: (prod(2 * window - 1), heads), added to the scores by relative position. The row is the row-major
            index of ``position of query - position of key + window - 1``, as in Swin.
        scale: factor of the scores, default ``head_dim ** -0.5``.
        padding: key and value, each (heads, head_dim), of the constant tokens that fill the image at the end of each
            axis up to a multiple of the window. They are seen as keys and not masked, as in networks that pad before
            the projection (Swin UNETR, LoLA-SpecViT). By default there are none.
        backend: "reference" is readable and slow, "eager" runs anywhere; "auto" takes the best one.

    Returns:
        (batch, *size, heads, head_dim) in the dtype of ``q``. The softmax is taken in at least float32.

    Raises:
        ValueError: if shapes, window or shift do not agree, or for an unknown backend.
    """
    axes = q.ndim - 3
    shift = (0,) * axes if shift is None else tuple(shift)
    if not 1 <= axes <= 3 or q.shape != k.shape or q.shape != v.shape:
        shapes = ", ".join(str(tuple(t.shape)) for t in (q, k, v))
        raise ValueError(f"local_attention: q, k, v have shapes {shapes}, expected one (batch, 1 to 3 axes, heads, head_dim)")
    if len(window) != axes or len(shift) != axes or not all(0 <= s < w for s, w in zip(shift, window, strict=True)):
        raise ValueError(
            f"local_attention: window {tuple(window)} and shift {shift}, expected {axes} of each, 0 <= shift < window"
        )
    heads, head_dim = q.shape[-2:]
    rows = 1
    for w in window:
        rows *= 2 * w - 1
    if bias_table is not None and bias_table.shape != (rows, heads):
        raise ValueError(f"local_attention: bias_table has shape {tuple(bias_table.shape)}, expected {(rows, heads)}")
    if padding is not None and any(t.shape != (heads, head_dim) for t in padding):
        raise ValueError(f"local_attention: padding has shapes {[tuple(t.shape) for t in padding]}, expected {(heads, head_dim)}")
    if backend not in _BACKENDS:
        raise ValueError(f"local_attention: backend is {backend!r}, expected one of {', '.join(_BACKENDS)}")
    scale = head_dim**-0.5 if scale is None else scale
    return _BACKENDS[backend](q, k, v, tuple(window), shift, bias_table, scale, padding)
