"""Attention on a grid of bands and places, by attention on each of the axes (LESS ViT).

Tokens are (batch, 1 + bands, 1 + places, dim): the first row stands for all bands, the first column for all places.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops.less_attention import less_attention
from ..ops.linear import linear
from .linear import Linear
from .rotary import Rotation

Norm = Callable[[int], nn.Module]
layer_norm: Norm = partial(nn.LayerNorm, eps=1e-6)


@dataclass(frozen=True, eq=False)
class GridContext:
    """What attention on a grid is told beside the tokens.

    Args:
        places: turns of the places, without the first column; None: none.
        bands: turns of the bands, without the first row.
        near: bool (1 + places, 1 + places) or (batch, ...), which places see which; None: each sees all.
        present: bool (batch, 1 + bands), False for bands that nobody may look at; None: all are there.
    """

    places: Rotation | None = None
    bands: Rotation | None = None
    near: Tensor | None = None
    present: Tensor | None = None


def perception_field(rows: int, columns: int, pitch: Tensor, radius: float) -> Tensor:
    """Return which places lie within a radius on the ground: bool (batch, places, places).

    Source: LESS ViT (arXiv 2605.18541), perception field mask.

    Args:
        rows, columns: of the places.
        pitch: (batch,), metres from a place to the next.
        radius: metres between centres.
    """
    row, column = torch.meshgrid(
        *(torch.arange(n, device=pitch.device, dtype=torch.float32) for n in (rows, columns)), indexing="ij"
    )
    at = torch.stack([row.flatten(), column.flatten()], dim=-1)
    squares = (at[:, None] - at).square().sum(-1)
    return squares.sqrt() * pitch[:, None, None] <= radius


def _turned(x: Tensor, rotation: Rotation | None, axis: int) -> Tensor:
    """Turn all but the first token of an axis of (batch, ..., width)."""
    if rotation is None:
        return x
    x = x.movedim(axis, -2)
    return torch.cat([x[..., :1, :], rotation(x[..., 1:, :])], dim=-2).movedim(-2, axis)


class ClassPool(nn.Module):
    """What the first token of each row gathers from its row, by attention: (batch, rows, length, dim) to (batch, rows, dim)."""

    def __init__(self, dim: int, *, heads: int, qkv_bias: bool, qk_norm: bool, norm: Norm) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv = Linear(dim, dim, bias=qkv_bias), Linear(dim, 2 * dim, bias=qkv_bias)
        self.q_norm, self.k_norm = (norm(dim // heads) if qk_norm else nn.Identity() for _ in range(2))
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """Pool; ``seen``, bool (batch, length), is False for tokens that are left out."""
        batch, rows = x.shape[:2]
        x = x.flatten(0, 1)
        q = torch.unflatten(self.q(x[:, :1]), -1, (self.heads, -1)).transpose(1, 2)
        k, v = torch.unflatten(self.kv(x), -1, (2, self.heads, -1)).transpose(1, 3).unbind(2)
        mask = None if seen is None else seen.repeat_interleave(rows, 0)[:, None, None]
        y: Tensor = self.proj(F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v, attn_mask=mask).flatten(1))
        return torch.unflatten(y, 0, (batch, rows))


class AxisProjection(nn.Module):
    """Query, key and value on one axis: (batch, length, dim) to three of (batch, ranks, heads, length, width)."""

    def __init__(
        self, dim: int, *, heads: int, ranks: int, shared_values: bool, qkv_bias: bool, qk_norm: bool, norm: Norm
    ) -> None:
        super().__init__()
        self.heads, self.ranks = heads, ranks
        self.value_ranks = 1 if shared_values else ranks
        self.qk = Linear(dim, 2 * dim * ranks, bias=qkv_bias)
        self.v = Linear(dim, dim * self.value_ranks, bias=qkv_bias)
        self.q_norm, self.k_norm = (norm(dim // heads) if qk_norm else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        qk = torch.unflatten(self.qk(x), -1, (2, self.heads, self.ranks, -1)).permute(2, 0, 4, 3, 1, 5)
        v = torch.unflatten(self.v(x), -1, (self.heads, self.value_ranks, -1)).permute(0, 3, 2, 1, 4)
        q, k = (_turned(part, rotation, -2) for part in qk.unbind(0))
        return self.q_norm(q), self.k_norm(k), v


class LessAttention(nn.Module):
    """Attention between bands and attention between places, combined by their product or their sum, for all tokens of the grid.

    Source: LESS ViT (arXiv 2605.18541). Every row and every column is first pooled to one token by its class token; the rest is
    ``less_attention``.

    Args:
        dim: channels in and out.
        heads: attention heads of both axes.
        band_dim: channels of a band's token, a multiple of ``heads``.
        place_dim: channels of a place's token; for the product, band_dim * place_dim is dim * heads.
        ranks: pairs of attentions that are added up.
        combine: "product": Kronecker product; "sum": the sum of both, each mapped to the channels of a head.
        pool: "attention", or "class": the class token as it is.
        qkv_bias: whether queries, keys and values have biases.
        qk_norm: whether queries and keys are normed, after they were turned.
        shared_values: one value for all ranks, and their sum instead of their mean: the model's first published code.
        norm: makes the norms of the pooled tokens.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        band_dim: int,
        place_dim: int,
        ranks: int = 1,
        combine: Literal["product", "sum"] = "product",
        pool: Literal["attention", "class"] = "attention",
        qkv_bias: bool = True,
        qk_norm: bool = False,
        shared_values: bool = False,
        norm: Norm = layer_norm,
    ) -> None:
        super().__init__()
        if dim % heads or band_dim % heads or place_dim % heads:
            raise ValueError(
                f"LessAttention: dim {dim}, band_dim {band_dim}, place_dim {place_dim} are no multiples of heads {heads}"
            )
        if combine not in ("product", "sum") or pool not in ("attention", "class"):
            told = f"combine is {combine!r}, pool {pool!r}"
            raise ValueError(f"LessAttention: {told}, expected 'product' or 'sum', and 'attention' or 'class'")
        if combine == "product" and band_dim * place_dim != dim * heads:
            told = f"band_dim {band_dim} * place_dim {place_dim}"
            raise ValueError(f"LessAttention: {told} is not dim * heads = {dim * heads}")
        self.heads, self.combine, self.mean = heads, combine, not shared_values
        self.band_in, self.place_in = Linear(dim, band_dim), Linear(dim, place_dim)
        self.band_pool_norm, self.place_pool_norm = norm(band_dim), norm(place_dim)
        self.band_pool, self.place_pool = (
            ClassPool(width, heads=heads, qkv_bias=qkv_bias, qk_norm=qk_norm, norm=norm) if pool == "attention" else None
            for width in (band_dim, place_dim)
        )
        self.band_norm, self.place_norm = norm(band_dim), norm(place_dim)
        self.band, self.place = (
            AxisProjection(
                width, heads=heads, ranks=ranks, shared_values=shared_values, qkv_bias=qkv_bias, qk_norm=qk_norm, norm=norm
            )
            for width in (band_dim, place_dim)
        )
        if combine == "sum":
            self.band_out, self.place_out = (Linear(width // heads, dim // heads) for width in (band_dim, place_dim))
        self.proj: nn.Module = Linear(dim, dim)

    def forward(self, x: Tensor, context: GridContext | None = None) -> Tensor:
        """Map (batch, 1 + bands, 1 + places, dim) to the same shape."""
        context = GridContext() if context is None else context
        bands = self._pooled(self.band_in(x), self.band_pool_norm, self.band_pool, None)
        places = self._pooled(self.place_in(x).transpose(1, 2), self.place_pool_norm, self.place_pool, context.present)
        seen = None if context.present is None else context.present[:, None]
        of_bands = self.band(self.band_norm(bands), context.bands)
        of_places = self.place(self.place_norm(places), context.places)
        if self.combine == "product":
            weight, bias = (self.proj.weight, self.proj.bias) if isinstance(self.proj, Linear) else (None, None)
            y = less_attention(
                *of_bands, *of_places, band_mask=seen, place_mask=context.near, weight=weight, bias=bias, mean=self.mean
            )
            return y if weight is not None else self.proj(y)  # or by an adapter in its place
        return self._added(self._attend(of_bands, seen), self._attend(of_places, context.near))

    @staticmethod
    def _pooled(x: Tensor, norm: nn.Module, pool: nn.Module | None, seen: Tensor | None) -> Tensor:
        """Return what stands for each row: (batch, rows, length, width) to (batch, rows, width)."""
        pooled: Tensor = norm(x[:, :, 0]) if pool is None else pool(norm(x), seen)
        return x[:, :, 0] + pooled

    def _attend(self, qkv: tuple[Tensor, Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """Attend on one axis and join the ranks: (batch, length, heads, width)."""
        q, k, v = qkv
        mask = mask[:, None, None] if mask is not None and mask.ndim == 3 else mask
        y = F.scaled_dot_product_attention(q, k, v.expand_as(q), attn_mask=mask)
        return (y.mean(1) if self.mean else y.sum(1)).transpose(1, 2)

    def _added(self, bands: Tensor, places: Tensor) -> Tensor:
        b, p = self.band_out(bands).flatten(2), self.place_out(places).flatten(2)
        if not isinstance(self.proj, Linear):
            return self.proj(b[:, :, None] + p[:, None])  # type: ignore[no-any-return]
        # The projection of a sum is the sum of projections: bands + places products instead of bands * places.
        return linear(b, self.proj.weight, self.proj.bias)[:, :, None] + linear(p, self.proj.weight)[:, None]


class GridAttention(nn.Module):
    """Softmax attention between all tokens of the grid, whose queries and keys turn by place and by band.

    Half of a head's channels turn by the place, the others by the band (LESS ViT's comparison with full attention).

    Args:
        dim: channels in and out.
        heads: attention heads; for turns, dim / heads is a multiple of 4 and half of it is of 4, too.
        qkv_bias, qk_norm, norm: as in ``LessAttention``.
    """

    def __init__(self, dim: int, *, heads: int, qkv_bias: bool = True, qk_norm: bool = False, norm: Norm = layer_norm) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"GridAttention: dim {dim} is not a multiple of heads {heads}")
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.q_norm, self.k_norm = (norm(dim // heads) if qk_norm else nn.Identity() for _ in range(2))
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor, context: GridContext | None = None) -> Tensor:
        """Map (batch, 1 + bands, 1 + places, dim) to the same shape."""
        context = GridContext() if context is None else context
        size = x.shape[1:3]
        # Parts, batch, heads, bands, places, width.
        qkv = torch.unflatten(self.qkv(x), -1, (3, self.heads, -1)).permute(3, 0, 4, 1, 2, 5)
        q, k = (norm(self._turn(part, context)).flatten(2, 3) for norm, part in ((self.q_norm, qkv[0]), (self.k_norm, qkv[1])))
        mask = None
        if context.present is not None or context.near is not None:
            mask = x.new_ones(1, size[0], size[1], size[0], size[1], dtype=torch.bool)
            mask = mask if context.present is None else mask & context.present[:, None, None, :, None]
            if context.near is not None:
                near = context.near if context.near.ndim == 3 else context.near[None]
                mask = mask & near[:, None, :, None]
            mask = mask.flatten(3).flatten(1, 2)[:, None]
        y = F.scaled_dot_product_attention(q, k, qkv[2].flatten(2, 3), attn_mask=mask)
        out: Tensor = self.proj(y.transpose(1, 2).flatten(2))
        return torch.unflatten(out, 1, size)

    @staticmethod
    def _turn(x: Tensor, context: GridContext) -> Tensor:
        half = x.shape[-1] // 2
        by_place, by_band = x[..., :half], x[..., half:]
        return torch.cat([_turned(by_place, context.places, 3), _turned(by_band, context.bands, 2)], dim=-1)
