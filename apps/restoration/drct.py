"""DRCT: restoration by windows with dense connections."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...core.blocks.metaformer import mlp_block
from ...core.layers.attention import WindowAttention
from ...core.layers.linear import Linear, activated
from .residual import ResidualNetwork

_BLOCKS = 5  # of a group
_FLAT = 2  # of those, the last ones have MLPs without expansion
_SLOPE, _SCALE = 0.2, 0.2


class DenseGroup(nn.Module):
    """x + 0.2 times what five Swin blocks make, each of x and the few channels that those before added: (B, H, W, dim).

    Source: Hsu et al. 2024 (DRCT), section 3.2, residual deep feature extraction group.

    Args:
        dim: channels.
        heads: attention heads of the first block. A block of ``c`` channels has ``heads - c % heads``, in which case that must
            divide c.
        window: tokens per window on each axis; the second and fourth block shift them by half of it.
        growth: channels that a block adds.
        mlp_ratio: hidden channels of the MLPs over those of their block; 1 in the last two blocks.
        qkv_bias: whether query, key and value have one.
        drop_path: probability to skip a branch of a block for a sample in training.

    Raises:
        ValueError: if a number of heads does not divide the channels.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        window: int,
        growth: int,
        mlp_ratio: float,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [dim + i * growth for i in range(_BLOCKS)]
        shifts = ((0, 0), (window // 2, window // 2))
        self.blocks = nn.ModuleList(
            mlp_block(
                width,
                WindowAttention(width, heads=heads - width % heads, window=(window,) * 2, shift=shifts[i % 2], qkv_bias=qkv_bias),
                mlp_ratio=mlp_ratio if i < _BLOCKS - _FLAT else 1.0,
                drop_path=drop_path,
            )
            for i, width in enumerate(widths)
        )
        self.adjusts = nn.ModuleList(Linear(width, growth) for width in widths[:-1])
        self.last = Linear(widths[-1], dim)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        dense_BHWC = x_BHWC
        for block, adjust in zip(self.blocks, self.adjusts, strict=False):
            added_BHWC = activated(adjust, block(dense_BHWC), "leaky_relu", _SLOPE)
            dense_BHWC = torch.cat([dense_BHWC, added_BHWC.to(dense_BHWC.dtype)], dim=-1)
        y_BHWC: Tensor = self.last(self.blocks[-1](dense_BHWC))
        return x_BHWC + _SCALE * y_BHWC


class DRCT(ResidualNetwork):
    """Groups of five densely connected Swin blocks.

    Source: Hsu et al. 2024 (DRCT), section 3. The image is filled up to whole windows by reflection.

    Args:
        scale: output pixels for each input pixel on an axis.
        dim: channels.
        heads: attention heads in the first block of each group, divisors of ``dim``. Their number is that of the groups.
        window: tokens per window on each axis. Every second block shifts the windows by half of it.
        growth: channels that a block adds.
        mlp_ratio: hidden channels of the MLPs over those of their block; 1 in the last two blocks of a group.
        in_channels: of the image.
        image_range: factor of the image inside the network.
        qkv_bias: whether query, key and value have one.
        drop_path: probability to skip a branch in training, one for each group.

    Raises:
        ValueError: if a number of heads does not divide the channels of its block, or for a wrong number of ``drop_path``.
    """

    def __init__(
        self,
        scale: int,
        dim: int = 180,
        *,
        heads: Sequence[int] = (6,) * 6,
        window: int = 16,
        growth: int = 32,
        mlp_ratio: float = 2.0,
        in_channels: int = 3,
        image_range: float = 1.0,
        qkv_bias: bool = True,
        drop_path: Sequence[float] | None = None,
    ) -> None:
        rates = (0.0,) * len(heads) if drop_path is None else drop_path
        if len(rates) != len(heads):
            raise ValueError(f"DRCT: {len(rates)} rates of drop_path and {len(heads)} heads, expected one of each for a group")
        groups = [
            DenseGroup(dim, heads=h, window=window, growth=growth, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias, drop_path=rate)
            for h, rate in zip(heads, rates, strict=True)
        ]
        super().__init__(scale, dim, groups=groups, upsampler="pixelshuffle", in_channels=in_channels, image_range=image_range)
        self.multiple = window
        self.halo = 2 * window
