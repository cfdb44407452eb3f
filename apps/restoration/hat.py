"""HAT: restoration by windows, channel attention and overlapping windows."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...core.blocks.metaformer import mlp_block
from ...core.layers.attention import OverlapAttention, WindowAttention
from ...core.layers.channel_attention import ChannelGate
from ...core.layers.conv import Conv
from ...core.layers.drop import DropPath
from ...core.layers.mlp import MLP
from ...core.layers.norm import norm_residual
from .residual import ResidualGroup, ResidualNetwork
from .swinir import skip_rates


class ChannelAttentionBlock(ChannelGate):
    """Two convolutions, and a gate for each channel from its mean over the image: (B, H, W, dim) to the same shape.

    Source: Zhang et al. 2018 (RCAN), section 3.2, with fewer channels between the convolutions as in HAT. It looks at the whole
    image: on tiles the result depends on the tile.

    Args:
        dim: channels.
        narrow: channels between the convolutions.
        squeezed: hidden channels of the gate.
    """

    def __init__(self, dim: int, *, narrow: int, squeezed: int) -> None:
        super().__init__(dim, squeezed)
        self.conv1, self.conv2 = Conv(dim, narrow, activation="gelu"), Conv(narrow, dim)

    def parts(self, x_BHWC: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is gated (B, H, W, dim), and the gate (B, 1, 1, dim): their product is the result."""
        y_BHWC = self.conv2(self.conv1(x_BHWC))
        return y_BHWC, self.gate(y_BHWC)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        y_BHWC, gate_B11C = self.parts(x_BHWC)
        return y_BHWC * gate_B11C


class HybridBlock(nn.Module):
    """x + attention(norm(x)) + conv_scale * channel attention(norm(x)), then x + mlp(norm(x)), on (B, H, W, dim).

    Source: Chen et al. 2023 (HAT), section 3.2, hybrid attention block.

    Args:
        dim: channels.
        attention: maps (B, H, W, dim) to the same shape.
        channels: beside the attention.
        conv_scale: factor of the latter.
        mlp_ratio: hidden channels of the MLP over ``dim``.
        drop_path: probability to skip attention or MLP for a sample in training.
    """

    def __init__(
        self,
        dim: int,
        attention: nn.Module,
        channels: ChannelAttentionBlock,
        *,
        conv_scale: float,
        mlp_ratio: float,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1, self.mixer, self.channels, self.conv_scale = nn.LayerNorm(dim), attention, channels, conv_scale
        self.norm2, self.channel_mixer = nn.LayerNorm(dim), MLP(dim, int(mlp_ratio * dim))
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        y_BHWC = self.norm1(x_BHWC)
        gated_BHWC, gate_B11C = self.channels.parts(y_BHWC)
        branch_BHWC = torch.addcmul(self.drop_path(self.mixer(y_BHWC)), gated_BHWC, gate_B11C * self.conv_scale)
        x_BHWC, y_BHWC = norm_residual(self.norm2, x_BHWC, branch_BHWC)
        dropped_BHWC: Tensor = self.drop_path(self.channel_mixer(y_BHWC))
        return x_BHWC + dropped_BHWC


class HAT(ResidualNetwork):
    """Groups of hybrid blocks, each with a block of overlapping windows and a convolution behind.

    Source: Chen et al. 2023 (HAT), section 3. The image is filled up to whole windows by reflection. Keys of overlapping windows
    that lie outside the image are zero, and are seen, as in the official implementation.

    Args:
        scale: output pixels for each input pixel on an axis.
        dim: channels.
        depths: blocks of each group, without that of overlapping windows.
        heads: attention heads of each group, divisors of ``dim``.
        window: tokens per window on each axis. Every second block shifts the windows by half of it.
        overlap: how far the keys of overlapping windows reach beyond a window on each side.
        narrow: channels between the convolutions beside attention.
        squeezed: hidden channels of the gate of those convolutions.
        conv_scale: factor of those convolutions. Checkpoints do not tell it; all published ones have 0.01.
        mlp_ratio: hidden channels of the MLPs over ``dim``.
        in_channels: of the image.
        image_range: factor of the image inside the network.
        qkv_bias: whether query, key and value have one.
        drop_path: probability to skip the last block in training, less for those before.

    Raises:
        ValueError: if ``depths`` and ``heads`` differ in length, or for an impossible value.
    """

    def __init__(
        self,
        scale: int,
        dim: int = 180,
        *,
        depths: Sequence[int] = (6,) * 6,
        heads: Sequence[int] = (6,) * 6,
        window: int = 16,
        overlap: int = 4,
        narrow: int = 60,
        squeezed: int = 6,
        conv_scale: float = 0.01,
        mlp_ratio: float = 2.0,
        in_channels: int = 3,
        image_range: float = 1.0,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
    ) -> None:
        if len(depths) != len(heads):
            raise ValueError(f"HAT: {len(depths)} depths and {len(heads)} heads, expected one of each for a group")
        square, shifts = (window, window), ((0, 0), (window // 2, window // 2))
        groups = []
        for h, rates in zip(heads, skip_rates(drop_path, depths), strict=True):
            blocks = nn.Sequential(
                *(
                    HybridBlock(
                        dim,
                        WindowAttention(dim, heads=h, window=square, shift=shifts[i % 2], qkv_bias=qkv_bias),
                        ChannelAttentionBlock(dim, narrow=narrow, squeezed=squeezed),
                        conv_scale=conv_scale,
                        mlp_ratio=mlp_ratio,
                        drop_path=rate,
                    )
                    for i, rate in enumerate(rates)
                )
            )
            attention = OverlapAttention(dim, heads=h, window=square, overlap=overlap, outside="zero", qkv_bias=qkv_bias)
            blocks.add_module("overlap", mlp_block(dim, attention, mlp_ratio=mlp_ratio))
            groups.append(ResidualGroup(dim, blocks))
        super().__init__(scale, dim, groups=groups, upsampler="pixelshuffle", in_channels=in_channels, image_range=image_range)
        self.multiple = window
        self.halo = 2 * window
