"""Multi-head self-attention inside windows."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from ..ops.local_attention import Backend, local_attention, windows


class WindowAttention(nn.Module):
    """Self-attention inside the windows of a regular grid, with a bias by relative position.

    Source: Liu et al. 2021 (Swin), section 3.2. Sizes need not be multiples of the window: ``border="partial"`` lets the
    windows at the border hold fewer tokens; ``border="zeros"`` fills the image at the end of each axis with zero tokens
    before the projection and does not mask them, as Swin UNETR and LoLA-SpecViT do (in closed form, so that no work is
    spent on them).

    Args:
        dim: channels in and out.
        heads: attention heads, a divisor of ``dim``.
        window: tokens per window, one number for each spatial axis.
        shift: offset of the window grid, one number for each spatial axis. Default 0.
        qkv_bias: whether the projection to query, key and value has a bias.
        position_bias: whether the scores get a learned bias by relative position.
        border: how a size that is no multiple of the window is treated.
        backend: of ``local_attention``.

    Raises:
        ValueError: if ``heads`` does not divide ``dim``, or for an impossible window or shift.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        window: tuple[int, ...],
        shift: tuple[int, ...] | None = None,
        qkv_bias: bool = True,
        position_bias: bool = True,
        border: Literal["partial", "zeros"] = "partial",
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"WindowAttention: dim {dim} is not a multiple of heads {heads}")
        self.dim, self.heads, self.window = dim, heads, tuple(window)
        self.shift = (0,) * len(window) if shift is None else tuple(shift)
        self.pattern = windows(self.window, shift=self.shift)
        self.border, self.backend = border, backend
        # A plain nn.Module to the type checker: an adapter may take the place of either.
        self.qkv: nn.Module = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj: nn.Module = nn.Linear(dim, dim)
        self.bias_table = nn.Parameter(torch.empty(math.prod(2 * w - 1 for w in window), heads)) if position_bias else None
        if self.bias_table is not None:
            nn.init.trunc_normal_(self.bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, *size, dim) to the same shape."""
        q, k, v = self._project(x).unbind(-3)
        padding: tuple[Tensor, Tensor] | None = None
        if self.border == "zeros" and any(n % w for n, w in zip(x.shape[1:-1], self.window, strict=True)):
            _, k_zero, v_zero = self._project(x.new_zeros(self.dim)).unbind(-3)
            padding = k_zero, v_zero
        out = local_attention(
            q,
            k,
            v,
            self.pattern,
            bias_table=self.bias_table,
            padding=padding,
            backend=self.backend,
        )
        projected: Tensor = self.proj(out.flatten(-2))
        return projected

    def _project(self, x: Tensor) -> Tensor:
        """Map (..., dim) to (..., 3, heads, head_dim)."""
        qkv: Tensor = self.qkv(x)
        return torch.unflatten(qkv, -1, (3, self.heads, -1))
