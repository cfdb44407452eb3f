"""Attention over bands times attention over places: the readable truth that the factorised form is compared with.

Shapes: B batch, R ranks, H heads, C bands, N places, P and Q widths of the values of bands and of places, O channels out.
"""

import torch
from torch import Tensor

from ...device import without_autocast


def less_attention(
    bands: tuple[Tensor, Tensor, Tensor],
    places: tuple[Tensor, Tensor, Tensor],
    band_mask: Tensor | None,
    place_mask: Tensor | None,
    weight_OD: Tensor | None,
    bias_O: Tensor | None,
    mean: bool,
) -> Tensor:
    """Build the matrix of all tokens' weights for all tokens, (B, R, H, C N, C N), in at least float32."""
    dtype = torch.promote_types(bands[2].dtype, torch.float32)
    with without_autocast(bands[2].device):
        w_BRHCC, v_BRHCP = _weights(bands, band_mask, dtype), bands[2].to(dtype)
        w_BRHNN, v_BRHNQ = _weights(places, place_mask, dtype), places[2].to(dtype)
        joint = _kronecker(w_BRHCC, w_BRHNN) @ _kronecker(v_BRHCP, v_BRHNQ)
        joint = joint.mean(1) if mean else joint.sum(1)
        out: Tensor = torch.unflatten(joint.transpose(1, 2), 1, (v_BRHCP.shape[-2], v_BRHNQ.shape[-2])).flatten(-2)
        if weight_OD is not None:
            out = out @ weight_OD.to(dtype).mT
        if bias_O is not None:
            out = out + bias_O.to(dtype)
        return out.to(bands[2].dtype)


def _weights(qkv: tuple[Tensor, Tensor, Tensor], mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    q, k = (x.to(dtype) for x in qkv[:2])
    scores = q @ k.mT * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask[..., None, None, :, :], -torch.inf)
    weights: Tensor = scores.softmax(-1)
    return weights


def _kronecker(a: Tensor, b: Tensor) -> Tensor:
    """Kronecker products of the matrices on the last two axes."""
    made = torch.einsum("...ij,...kl->...ikjl", a, b)
    return made.flatten(-2).flatten(-3, -2)
