"""Linear attention and retention: the readable truth that every backend is compared with.

Shapes: M queries, N keys, D their width, E width of the values; B batch, L steps, G groups, H heads, P width of the values.
"""

import torch
from torch import Tensor

from ...device import without_autocast
from .features import FEATURE_MAPS, FeatureMap


def linear_attention(q: Tensor, k: Tensor, v: Tensor, feature_map: FeatureMap, normalize: bool, eps: float) -> Tensor:
    """Weigh the values with the explicit matrix of weights, (..., M, N), in at least float32."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    query_map, key_map = FEATURE_MAPS[feature_map]
    with without_autocast(q.device):  # which products would follow
        weights = query_map(q.to(dtype)) @ key_map(k.to(dtype)).mT
        if normalize:
            weights = weights / (weights.sum(-1, keepdim=True) + eps)
        return (weights @ v.to(dtype)).to(v.dtype)


def retention(
    q_BLGD: Tensor, k_BLGD: Tensor, v_BLHP: Tensor, log_decay: Tensor, _chunk: int, state_BHDP: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Run the recurrence step by step, in at least float32 (Sun et al. 2023, equation 6)."""
    dtype = torch.promote_types(v_BLHP.dtype, torch.float32)
    batch, length, heads, width = v_BLHP.shape
    q, k = (x.to(dtype).repeat_interleave(heads // x.shape[2], 2) for x in (q_BLGD, k_BLGD))
    v, decay = v_BLHP.to(dtype), log_decay.to(dtype).exp().expand(batch, length, heads)
    state = torch.zeros(batch, heads, q.shape[-1], width, dtype=dtype, device=v.device)
    state = state if state_BHDP is None else state_BHDP.to(dtype)
    y = []
    for q_BHD, k_BHD, v_BHP, decay_BH in zip(*(x.unbind(1) for x in (q, k, v, decay)), strict=True):
        state = decay_BH[..., None, None] * state + k_BHD[..., None] * v_BHP[..., None, :]
        y.append((q_BHD[..., None] * state).sum(-2))
    return torch.stack(y, 1).to(v_BLHP.dtype), state
