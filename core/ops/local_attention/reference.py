"""Local attention written out: every position looks at all, and a mask keeps its own window.

Shapes: B batch, S positions of the image, P positions of the padded image, A axes, H heads, D head width.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def local_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: tuple[int, ...],
    shift: tuple[int, ...],
    bias_table: Tensor | None,
    scale: float,
    padding: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """See ``geovit.core.ops.local_attention``. Memory grows with the square of the number of positions."""
    size = q.shape[1:-2]
    if padding is not None:
        k, v = (_pad_end(t, window, constant) for t, constant in zip((k, v), padding, strict=True))
    dtype = torch.promote_types(q.dtype, torch.float32)
    q_BSHD, k_BPHD, v_BPHD = (t.flatten(1, -3).to(dtype) for t in (q, k, v))

    query_SA, key_PA = _coordinates(size, q.device), _coordinates(k.shape[1:-2], q.device)
    window_A, shift_A = torch.tensor(window, device=q.device), torch.tensor(shift, device=q.device)
    region_SA, region_PA = (torch.div(x - shift_A, window_A, rounding_mode="floor") for x in (query_SA, key_PA))
    together_SP = (region_SA[:, None] == region_PA).all(-1)

    scores_BHSP = scale * torch.einsum("bshd,bphd->bhsp", q_BSHD, k_BPHD)
    if bias_table is not None:
        offset_SPA = query_SA[:, None] - key_PA + window_A - 1
        stride_A = torch.tensor(
            [math.prod(2 * w - 1 for w in window[axis + 1 :]) for axis in range(len(window))], device=q.device
        )
        row_SP = (offset_SPA * stride_A).sum(-1).masked_fill(~together_SP, 0)
        scores_BHSP = scores_BHSP + bias_table.to(dtype)[row_SP].permute(2, 0, 1)
    weights_BHSP = scores_BHSP.masked_fill(~together_SP, -math.inf).softmax(-1)
    out_BSHD = torch.einsum("bhsp,bphd->bshd", weights_BHSP, v_BPHD)
    return out_BSHD.to(q.dtype).reshape(q.shape)


def _coordinates(size: torch.Size, device: torch.device) -> Tensor:
    axes = [torch.arange(n, device=device) for n in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)


def _pad_end(x: Tensor, window: tuple[int, ...], constant: Tensor) -> Tensor:
    """Extend every axis of (B, *size, H, D) at its end to a multiple of the window by a constant (H, D)."""
    missing = [-n % w for n, w in zip(x.shape[1:-2], window, strict=True)]
    pad = [0, 0, 0, 0] + [p for m in reversed(missing) for p in (0, m)]
    inside = F.pad(torch.ones_like(x, dtype=torch.bool), pad)
    return torch.where(inside, F.pad(x, pad), constant.to(x.dtype))
