"""Linear attention as matrix products: any device, any floating dtype.

Shapes: M queries, N keys, D their width, E width of the values.
"""

import torch
from torch import Tensor

from ...device import without_autocast
from .features import FEATURE_MAPS, FeatureMap


def linear_attention(q: Tensor, k: Tensor, v: Tensor, feature_map: FeatureMap, normalize: bool, eps: float) -> Tensor:
    """Multiply in the cheaper order, in at least float32."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    query_map, key_map = FEATURE_MAPS[feature_map]
    # A sum over thousands of tokens must not be rounded to 16 bits on its way, which autocast would do.
    with without_autocast(q.device):
        q, k, wide = query_map(q.to(dtype)), key_map(k.to(dtype)), v.to(dtype)
        out = product(q, k, wide)
        if normalize:
            out = out / (q @ k.sum(-2)[..., None] + eps)
        return out.to(v.dtype)


def product(q_MD: Tensor, k_ND: Tensor, v_NE: Tensor) -> Tensor:
    """Return q k^T v, (..., M, E), in the order that takes fewer multiplications."""
    (queries, width), (keys, values) = q_MD.shape[-2:], v_NE.shape[-2:]
    if queries * keys * (width + values) < (queries + keys) * width * values:
        return (q_MD @ k_ND.mT) @ v_NE
    return q_MD @ (k_ND.mT @ v_NE)
