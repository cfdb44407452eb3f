"""Attention between all tokens of a grid of bands and places whose weights are products: bands' weights times places' weights."""

from typing import Literal, get_args

import torch
from torch import Tensor

from . import eager, reference

__all__ = ["Backend", "less_attention"]

Backend = Literal["auto", "reference", "eager"]


def less_attention(
    q_band: Tensor,
    k_band: Tensor,
    v_band: Tensor,
    q_place: Tensor,
    k_place: Tensor,
    v_place: Tensor,
    *,
    band_mask: Tensor | None = None,
    place_mask: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    mean: bool = True,
    backend: Backend = "auto",
) -> Tensor:
    """Compute (A_band (x) A_place)(V_band (x) V_place) for every rank and head, add up the ranks, and project.

    Source: LESS ViT (arXiv 2605.18541), the low-rank efficient spatial-spectral attention. A = softmax(Q K^T / sqrt(width)), and
    (x) is the Kronecker product. The README of this folder has the maths.

    Args:
        q_band, k_band: (batch, ranks, heads, bands, width).
        v_band: (batch, ranks or 1, heads, bands, width of the values).
        q_place, k_place, v_place: the same of places; ``width`` may be another.
        band_mask: bool (bands, bands), or (batch, bands or 1, bands), True where a query (row) sees a key. Every query sees some.
        place_mask: the same of places.
        weight: (out, heads * width of the bands' values * width of the places' values) of a projection, or None: none follows.
        bias: (out,), of the projection.
        mean: divide the sum over the ranks by their number.
        backend: "reference" builds the weights of all tokens for all tokens, "eager" never does; "auto" takes the best one.

    Returns:
        (batch, bands, places, out), without ``weight`` the channels are heads, bands' values, places' values.

    Raises:
        ValueError: if shapes, dtypes or devices do not agree, or for an unknown backend.
    """
    bands, places = (q_band, k_band, v_band), (q_place, k_place, v_place)
    for name, (q, k, v) in (("band", bands), ("place", places)):
        shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
        fits = q.ndim == 5 and q.shape == k.shape and v.ndim == 5 and v.shape[1] in (1, q.shape[1])
        if not (fits and (q.shape[0], *q.shape[2:4]) == (v.shape[0], *v.shape[2:4])):
            raise ValueError(
                f"less_attention: q, k, v of {name} are {shapes}, expected (batch, ranks, heads, {name}s, width) each"
            )
    if q_band.shape[:3] != q_place.shape[:3]:
        told = f"{tuple(q_band.shape[:3])} and {tuple(q_place.shape[:3])}"
        raise ValueError(f"less_attention: batch, ranks and heads of bands and places are {told}, expected the same")
    for name, mask, count in (("band", band_mask, q_band.shape[3]), ("place", place_mask, q_place.shape[3])):
        allowed = {(count, count), (len(q_band), count, count), (len(q_band), 1, count)}
        if mask is not None and (mask.dtype != torch.bool or tuple(mask.shape) not in allowed):
            told = f"{mask.dtype} {tuple(mask.shape)}"
            raise ValueError(f"less_attention: {name}_mask is {told}, expected bool of one of {sorted(allowed, key=len)}")
    width = q_band.shape[2] * v_band.shape[4] * v_place.shape[4]
    if (weight is None and bias is not None) or (weight is not None and (weight.ndim != 2 or weight.shape[1] != width)):
        told = "a bias alone" if weight is None else f"weight {tuple(weight.shape)}"
        raise ValueError(f"less_attention: got {told}, expected a weight (out, {width})")
    if backend not in get_args(Backend):
        raise ValueError(f"less_attention: backend is {backend!r}, expected one of {', '.join(get_args(Backend))}")
    function = reference.less_attention if backend == "reference" else eager.less_attention
    return function(bands, places, band_mask, place_mask, weight, bias, mean)
