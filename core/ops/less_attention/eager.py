"""Attention over bands times attention over places, each by itself: any device, any floating dtype.

Shapes: B batch, R ranks, H heads, C bands, N places, P and Q widths of the values of bands and of places, D = H P Q, O channels
out.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..linear import linear


def less_attention(
    bands: tuple[Tensor, Tensor, Tensor],
    places: tuple[Tensor, Tensor, Tensor],
    band_mask: Tensor | None,
    place_mask: Tensor | None,
    weight_OD: Tensor | None,
    bias_O: Tensor | None,
    mean: bool,
) -> Tensor:
    """Attend on each axis, then multiply out; with a projection, in the order that takes the fewest multiplications."""
    y_BRHCP, z_BRHNQ = _attend(bands, band_mask), _attend(places, place_mask)
    if mean and y_BRHCP.shape[1] > 1:
        y_BRHCP = y_BRHCP / y_BRHCP.shape[1]
    (batch, ranks, heads, count, p), (sites, q) = y_BRHCP.shape, z_BRHNQ.shape[-2:]
    if weight_OD is None:
        return torch.einsum("brhcp,brhnq->bcnhpq", y_BRHCP, z_BRHNQ).flatten(-3)
    out = len(weight_OD)
    width, tokens = heads * p * q, count * sites
    costs = {
        "places": sites * ranks * width * out + tokens * ranks * heads * p * out,
        "bands": count * ranks * width * out + tokens * ranks * heads * q * out,
        "tokens": tokens * (ranks + out) * width,
    }
    first = min(costs, key=lambda name: costs[name])
    if first == "tokens":
        made = torch.einsum("brhcp,brhnq->bcnhpq", y_BRHCP, z_BRHNQ).flatten(-3)
        return linear(made, weight_OD.to(made.dtype), None if bias_O is None else bias_O.to(made.dtype))
    w_OHPQ = weight_OD.to(y_BRHCP.dtype).reshape(out, heads, p, q)
    if first == "places":
        # Each place's part of the projection, then one product for all places and channels out.
        t_BRHPNO = z_BRHNQ[:, :, :, None] @ w_OHPQ.permute(1, 2, 3, 0)
        y_BCK = y_BRHCP.permute(0, 3, 1, 2, 4).flatten(2)
        y = torch.unflatten(y_BCK @ t_BRHPNO.reshape(batch, ranks * heads * p, sites * out), -1, (sites, out))
    else:
        t_BRHQCO = y_BRHCP[:, :, :, None] @ w_OHPQ.permute(1, 3, 2, 0)
        z_BNK = z_BRHNQ.permute(0, 3, 1, 2, 4).flatten(2)
        y = z_BNK[:, None] @ t_BRHQCO.permute(0, 4, 1, 2, 3, 5).flatten(2, 4)
    if bias_O is None:
        return y
    return y + bias_O.to(y.dtype) if torch.is_grad_enabled() else y.add_(bias_O.to(y.dtype))


def _attend(qkv: tuple[Tensor, Tensor, Tensor], mask: Tensor | None) -> Tensor:
    """Attend to the tokens of one axis: the fused kernels take one axis of heads, so ranks count as heads."""
    q, k, v = qkv
    ranks = q.shape[1]
    v = v.expand(-1, ranks, -1, -1, -1)  # one value may serve all ranks
    if mask is not None and mask.ndim == 3:
        mask = mask[:, None]
    y = F.scaled_dot_product_attention(q.flatten(1, 2), k.flatten(1, 2), v.flatten(1, 2), attn_mask=mask)
    return torch.unflatten(y, 1, (ranks, -1))
