"""From a finer to a coarser grid of tokens."""

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from .conv import CONVS
from .linear import Linear
from .norm import NormKind, make_norm
from .padding import fill_up

MergeOrder = Literal["first_fastest", "last_fastest", "monai", "monai_1_4"]
_MONAI = "000 100 010 001 110 101 011 111"
_MONAI_1_4 = "000 100 010 001 101 010 001 111"


def merge_order(order: MergeOrder, axes: int) -> list[tuple[int, ...]]:
    """Return the offsets of the 2^axes tokens that ``PatchMerging`` joins, in the order in which it joins them.

    - "first_fastest": the offset on the first axis changes fastest, as in Swin's and timm's 2-D networks.
    - "last_fastest": row-major, as in MONAI's ``PatchMergingV2`` for volumes.
    - "monai": MONAI's ``PatchMerging`` for volumes; "monai_1_4": the same up to release 1.4, which takes two of the eight
      tokens twice and two never. Published Swin UNETR weights expect it. Both differ from "first_fastest" on three axes only.
    """
    if order not in ("first_fastest", "last_fastest", "monai", "monai_1_4"):
        raise ValueError(f"merge order is {order!r}, expected 'first_fastest', 'last_fastest', 'monai' or 'monai_1_4'")
    if order.startswith("monai") and axes == 3:
        return [tuple(map(int, offset)) for offset in (_MONAI if order == "monai" else _MONAI_1_4).split()]
    offsets = list(itertools.product(range(2), repeat=axes))
    return offsets if order == "last_fastest" else [offset[::-1] for offset in offsets]


def merged(x: Tensor, offsets: Sequence[tuple[int, ...]]) -> Tensor:
    """Join the channels of each 2 x 2 (x 2) tokens: (batch, *size, dim) to (batch, *ceil(size / 2), len(offsets) * dim).

    Args:
        x: odd sizes are filled up with zeros at the end.
        offsets: of the joined tokens on each axis, 0 or 1, as ``merge_order`` gives them.
    """
    x = fill_up(x, (2,) * (x.ndim - 2))
    return torch.cat([x[(slice(None), *(slice(o, None, 2) for o in offset))] for offset in offsets], dim=-1)


class PatchMerging(nn.Module):
    """Join each 2 x 2 (x 2) tokens and project them: (batch, *size, dim) to (batch, *ceil(size / 2), out).

    Source: Liu et al. 2021 (Swin), section 3.1: norm, then projection; Liu et al. 2022 (Swin V2), section 3.2: projection, then
    norm. Odd sizes are filled up with zeros at the end.

    Args:
        dim: channels in.
        out: channels out.
        axes: spatial axes.
        order: in which the tokens are joined, see ``merge_order``.
        norm: kind of the norm.
        norm_first: whether the norm comes before the projection.
    """

    def __init__(
        self,
        dim: int,
        out: int,
        *,
        axes: int = 2,
        order: MergeOrder = "first_fastest",
        norm: NormKind = "layer",
        norm_first: bool = True,
    ) -> None:
        super().__init__()
        self.order, self.norm_first = merge_order(order, axes), norm_first
        self.norm = make_norm(norm, dim * 2**axes if norm_first else out)
        self.proj = Linear(dim * 2**axes, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = merged(x, self.order)
        y: Tensor = self.proj(self.norm(x)) if self.norm_first else self.norm(self.proj(x))
        return y


class StridedConv(nn.Module):
    """A strided convolution with a norm: (batch, *size, dim) to (batch, *smaller, out), or from an image with channels first.

    Where the kernel is the stride, it is a patch embedding, and sizes that are no multiple of the stride are filled up with zeros
    at the end. Where the kernel is larger, patches overlap, and the image is surrounded by ``padding`` zeros.

    Args:
        dim: channels in.
        out: channels out.
        axes: spatial axes.
        kernel, stride, padding: of the convolution, on every axis.
        norm: kind of the norm, or None for none.
        norm_first: whether the norm comes before the convolution.
        image: whether the input is an image (batch, dim, *size).
        fill_up: whether there is a last patch for what remains of a size, as above. Otherwise the remainder is left out.
    """

    def __init__(
        self,
        dim: int,
        out: int,
        *,
        axes: int = 2,
        kernel: int = 2,
        stride: int = 2,
        padding: int = 0,
        norm: NormKind | None = "layer",
        norm_first: bool = False,
        image: bool = False,
        fill_up: bool = True,
    ) -> None:
        super().__init__()
        if axes not in CONVS:
            raise ValueError(f"StridedConv: axes is {axes}, expected 1 to 3")
        self.stride, self.norm_first, self.image = stride, norm_first, image
        self.patches = fill_up and kernel == stride and padding == 0
        self.conv = CONVS[axes](dim, out, kernel, stride=stride, padding=padding)
        self.norm = nn.Identity() if norm is None else make_norm(norm, dim if norm_first else out)

    def forward(self, x: Tensor) -> Tensor:
        if self.image:
            x = x.movedim(1, -1)
        if self.norm_first:
            x = self.norm(x)
        if self.patches:
            x = fill_up(x, (self.stride,) * (x.ndim - 2))
        x = self.conv(x.movedim(-1, 1)).movedim(1, -1)
        return x if self.norm_first else self.norm(x)
