"""Multi-head self-attention to what is near."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from ..ops.linear import linear
from ..ops.local_attention import Axis, Backend, Grid, Pattern, Window, local_attention, neighborhood, windows
from .linear import Linear

_LARGEST_SCALE = 100.0  # of cosine scores


def _leaves(axis: Axis, size: int) -> bool:
    """Whether the rule reaches outside an axis of this size."""
    if isinstance(axis, Window):
        return axis.overlap > 0 or size % (axis.size * axis.dilation) > 0
    return isinstance(axis, Grid) and size % axis.size > 0


class LocalAttention(nn.Module):
    """Self-attention from every token to those that a pattern gives it, on one to three spatial axes.

    Query, key and value are linear in the token, scores are scaled products (or, if ``cosine``, cosines times a learned factor
    for each head, at most 100: Swin V2, Liu et al. 2022, section 3.2), a bias for the relative position is added, and a linear
    map follows.

    Args:
        dim: channels in and out.
        heads: attention heads, a divisor of ``dim``.
        pattern: one rule for each spatial axis, as ``windows``, ``grid`` and ``neighborhood`` make them.
        qkv_bias: whether the projection to query, key and value has a bias.
        key_bias: whether the part of that bias that goes to the keys is learned; else it is zero, as in Swin V2.
        position_bias: "table": one number for each relative position and head; a module without inputs that computes such a
            table (rows of the pattern, heads); None: no bias.
        cosine: whether scores are cosines.
        scale: factor of the scaled products. Default ``(dim / heads) ** -0.5``.
        outside: what of the pattern lies outside the image is "unseen"; or is seen as a zero "token", whose key and value are the
            projection's biases; or has a key and a value of "zero".
        backend: of ``local_attention``.

    Raises:
        ValueError: if ``heads`` does not divide ``dim``, for an unknown option, or a scale of cosine scores.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        pattern: Pattern,
        qkv_bias: bool = True,
        key_bias: bool = True,
        position_bias: Literal["table"] | nn.Module | None = "table",
        cosine: bool = False,
        scale: float | None = None,
        outside: Literal["unseen", "token", "zero"] = "unseen",
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if dim % heads:
            raise ValueError(f"{name}: dim {dim} is not a multiple of heads {heads}")
        if cosine and scale is not None:
            raise ValueError(f"{name}: scale is {scale}, but that of cosine scores is learned")
        if outside not in ("unseen", "token", "zero"):
            raise ValueError(f"{name}: outside is {outside!r}, expected 'unseen', 'token' or 'zero'")
        if not (position_bias is None or position_bias == "table" or isinstance(position_bias, nn.Module)):
            raise ValueError(f"{name}: position_bias is {position_bias!r}, expected 'table', a module or None")
        self.dim, self.heads, self.pattern = dim, heads, pattern
        self.cosine, self.scale, self.outside, self.backend = cosine, scale, outside, backend
        # A plain nn.Module to the type checker: an adapter may take the place of either.
        self.qkv: nn.Module = Linear(dim, 3 * dim, bias=qkv_bias and key_bias)
        self.qv_bias = nn.Parameter(torch.zeros(2, dim)) if qkv_bias and not key_bias else None
        self.proj: nn.Module = Linear(dim, dim)
        rows = math.prod(axis.rows for axis in pattern)
        self.bias_table = nn.Parameter(torch.empty(rows, heads)) if position_bias == "table" else None
        if self.bias_table is not None:
            nn.init.trunc_normal_(self.bias_table, std=0.02)
        self.bias = position_bias if isinstance(position_bias, nn.Module) else None
        self.log_scale = nn.Parameter(torch.full((heads,), math.log(10))) if cosine else None

    def pattern_for(self, size: tuple[int, ...]) -> Pattern:
        """Return the pattern for an image of this size."""
        return self.pattern

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, *size, dim) to the same shape."""
        if x.ndim != len(self.pattern) + 2:
            expected = f"(batch, {len(self.pattern)} axes, channels)"
            raise ValueError(f"{type(self).__name__}: x has shape {list(x.shape)}, expected {expected}")
        pattern = self.pattern_for(tuple(x.shape[1:-1]))
        q, k, v = self._project(x).unbind(-3)
        out = local_attention(
            q,
            k,
            v,
            pattern,
            bias_table=self.bias_table if self.bias is None else self.bias(),
            scale=self.scale if self.log_scale is None else self.log_scale.clamp(max=math.log(_LARGEST_SCALE)).exp(),
            padding=self._padding(x, pattern),
            cosine=self.cosine,
            backend=self.backend,
        )
        projected: Tensor = self.proj(out.flatten(-2))
        return projected

    def _project(self, x: Tensor) -> Tensor:
        """Map (..., dim) to (..., 3, heads, head_dim)."""
        if self.qv_bias is None:
            qkv: Tensor = self.qkv(x)
        else:
            bias = torch.stack([self.qv_bias[0], torch.zeros_like(self.qv_bias[0]), self.qv_bias[1]])
            layer = self.qkv
            # A plain layer adds the bias at no cost, an adapter in its place does not.
            qkv = linear(x, layer.weight, bias.flatten()) if isinstance(layer, nn.Linear) else layer(x) + bias.flatten()
        return torch.unflatten(qkv, -1, (3, self.heads, -1))

    def _padding(self, x: Tensor, pattern: Pattern) -> tuple[Tensor, Tensor] | None:
        """Key and value of what lies outside the image, if the pattern reaches there."""
        if self.outside == "unseen" or not any(map(_leaves, pattern, x.shape[1:-1])):
            return None
        if self.outside == "zero":
            zero = x.new_zeros(self.heads, self.dim // self.heads)
            return zero, zero
        _, k, v = self._project(x.new_zeros(self.dim)).unbind(-3)
        return k, v


class WindowAttention(LocalAttention):
    """Self-attention inside the windows of a regular grid, with a bias by relative position.

    Source: Liu et al. 2021 (Swin), section 3.2; with ``cosine``, ``key_bias=False`` and a ``ContinuousBias`` that of Swin V2 (Liu
    et al. 2022, section 3.2 and 3.3). Sizes need not be multiples of the window: ``border="partial"`` lets the windows at the
    border hold fewer tokens; ``border="zeros"`` fills the image at the end of each axis with zero tokens before the projection
    and does not mask them, as Swin UNETR and LoLA-SpecViT do (in closed form, so that no work is spent on them).

    Args:
        dim: channels in and out.
        heads: attention heads, a divisor of ``dim``.
        window: tokens per window, one number for each spatial axis.
        shift: offset of the window grid, one number for each spatial axis. Default 0.
        shift_single: whether the grid is shifted, too, on an axis that fits into one window. Swin does not; but tiles of an image
            equal the whole only if the grid does not depend on their size.
        qkv_bias, key_bias, position_bias, cosine, scale: as in ``LocalAttention``.
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
        shift_single: bool = True,
        qkv_bias: bool = True,
        key_bias: bool = True,
        position_bias: Literal["table"] | nn.Module | None = "table",
        cosine: bool = False,
        scale: float | None = None,
        border: Literal["partial", "zeros"] = "partial",
        backend: Backend = "auto",
    ) -> None:
        if border not in ("partial", "zeros"):
            raise ValueError(f"WindowAttention: border is {border!r}, expected 'partial' or 'zeros'")
        super().__init__(
            dim,
            heads=heads,
            pattern=windows(tuple(window), shift=shift),
            qkv_bias=qkv_bias,
            key_bias=key_bias,
            position_bias=position_bias,
            cosine=cosine,
            scale=scale,
            outside="token" if border == "zeros" else "unseen",
            backend=backend,
        )
        self.window, self.shift_single = tuple(window), shift_single
        self._unshifted = windows(self.window)
        self.shift = (0,) * len(self.window) if shift is None else tuple(shift)

    def pattern_for(self, size: tuple[int, ...]) -> Pattern:
        if self.shift_single:
            return self.pattern
        fits = [n <= w for n, w in zip(size, self.window, strict=True)]
        return tuple(plain if fit else axis for plain, axis, fit in zip(self._unshifted, self.pattern, fits, strict=True))


class NeighborhoodAttention(LocalAttention):
    """Self-attention from every token to those nearest to it.

    Source: Hassani et al. 2023 (NAT), section 3.1; dilated: Hassani and Shi 2022 (DiNAT). Every axis of the image must hold
    kernel * dilation tokens, unless it is causal.

    Args:
        dim: channels in and out.
        heads: attention heads, a divisor of ``dim``.
        kernel: keys of a token on each spatial axis, odd unless causal.
        dilation: distance of neighbouring keys on each axis. Default 1.
        causal: whether an axis looks back only. Default: none does.
        qkv_bias, position_bias, backend: as in ``LocalAttention``.

    Raises:
        ValueError: if ``heads`` does not divide ``dim``, or for an impossible kernel or dilation.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        kernel: tuple[int, ...],
        dilation: tuple[int, ...] | None = None,
        causal: tuple[bool, ...] | None = None,
        qkv_bias: bool = True,
        position_bias: Literal["table"] | None = "table",
        backend: Backend = "auto",
    ) -> None:
        super().__init__(
            dim,
            heads=heads,
            pattern=neighborhood(tuple(kernel), dilation=dilation, causal=causal),
            qkv_bias=qkv_bias,
            position_bias=position_bias,
            backend=backend,
        )


class OverlapAttention(LocalAttention):
    """Self-attention from the tokens of a window to those of a larger window around it.

    Source: overlapping cross-attention block of HAT (Chen et al. 2023, section 3.2).

    Args:
        dim: channels in and out.
        heads: attention heads, a divisor of ``dim``.
        window: tokens per window of queries, one number for each spatial axis.
        overlap: how far keys reach beyond the window on each side. HAT's ratio r makes it r / 2 of the window.
        outside: keys beyond the image are "unseen", or have a key and value of "zero" and are seen, as in HAT.
        qkv_bias, position_bias, backend: as in ``LocalAttention``.

    Raises:
        ValueError: if ``heads`` does not divide ``dim``, or for an impossible window or overlap.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        window: tuple[int, ...],
        overlap: int,
        outside: Literal["unseen", "zero"] = "unseen",
        qkv_bias: bool = True,
        position_bias: Literal["table"] | None = "table",
        backend: Backend = "auto",
    ) -> None:
        super().__init__(
            dim,
            heads=heads,
            pattern=windows(tuple(window), overlap=overlap),
            qkv_bias=qkv_bias,
            position_bias=position_bias,
            outside=outside,
            backend=backend,
        )
