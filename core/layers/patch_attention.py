"""Attention in square patches that overlap.

Shapes: B batch, H height, W width, C channels, P patches on an axis.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .linear import Linear

_OVERLAP = 2  # tokens that neighbouring patches share, as published


class PatchAttention(nn.Module):
    """Attention in patches with a residual in each, and the mean where two patches overlap: (B, H, W, C) to the same shape.

    The last patch of an axis ends where the image does, and so may overlap more. Source: Liu et al. 2025 (CATANet), section 3.3
    (local-region self-attention), and its code for the overlaps: every strip that two neighbours share is halved, so that a token
    in three patches gets three quarters of their mean.

    Args:
        dim: C.
        key_dim: channels of queries and keys.
        heads: a divisor of ``dim`` and ``key_dim``.
        patch: tokens of a patch on each axis, more than 2; those of an axis that is shorter.

    Raises:
        ValueError: if the heads do not divide the channels, or for a small patch.
    """

    def __init__(self, dim: int, *, key_dim: int, heads: int, patch: int) -> None:
        super().__init__()
        if dim % heads or key_dim % heads or patch <= _OVERLAP:
            told = f"dim {dim}, key_dim {key_dim}, heads {heads} and patch {patch}"
            raise ValueError(f"PatchAttention: {told}, expected heads that divide the channels and a patch over {_OVERLAP}")
        self.heads, self.patch = heads, patch
        self.norm = nn.LayerNorm(dim)
        self.query, self.key, self.value = (Linear(dim, out, bias=False) for out in (key_dim, key_dim, dim))
        self.proj = Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        rows_PN, row_weight_H = self._patches(height, x.device)
        columns_PN, column_weight_W = self._patches(width, x.device)
        y = self.norm(x)

        def by_patch(t: Tensor) -> Tensor:
            """Take the patches of (B, H, W, channels): (B * P * P, heads, tokens, head width)."""
            cut = torch.unflatten(t.index_select(1, rows_PN.flatten()), 1, rows_PN.shape)
            cut = torch.unflatten(cut.index_select(3, columns_PN.flatten()), 3, columns_PN.shape).transpose(2, 3)
            return torch.unflatten(cut.flatten(0, 2).flatten(1, 2), -1, (self.heads, -1)).transpose(1, 2)

        out = F.scaled_dot_product_attention(by_patch(self.query(y)), by_patch(self.key(y)), by_patch(self.value(y)))
        counts = len(rows_PN), len(columns_PN)
        out = torch.unflatten(out.transpose(1, 2).flatten(2), 0, (-1, *counts))
        out = torch.unflatten(out, 3, (rows_PN.shape[1], -1)).transpose(2, 3)
        # Patches are added where they came from; the residual as often as its token lies in one, then the strips are halved.
        wide = x.new_zeros(len(x), rows_PN.numel(), width, x.shape[-1])
        wide = wide.index_add(2, columns_PN.flatten(), out.flatten(1, 2).flatten(2, 3))
        total = torch.zeros_like(x).index_add(1, rows_PN.flatten(), wide)
        times = [torch.bincount(index.flatten(), minlength=n).to(x) for index, n in ((rows_PN, height), (columns_PN, width))]
        weight = (row_weight_H[:, None] * column_weight_W).to(x.dtype).unsqueeze(-1)
        attended: Tensor = self.proj(total) * weight
        return attended + x * (weight * (times[0][:, None] * times[1]).unsqueeze(-1))

    def _patches(self, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the positions of each patch of an axis, and the factor of each position after the sum."""
        patch = min(self.patch, size)
        step = self.patch - _OVERLAP
        starts = [min(start, size - patch) for start in range(0, max(size - _OVERLAP, 1), step)] if patch < size else [0]
        weight = torch.ones(size)
        for before, start in pairwise(starts):
            weight[start : before + patch] /= 2
        index = torch.tensor(starts).unsqueeze(1) + torch.arange(patch)
        return index.to(device), weight.to(device)
