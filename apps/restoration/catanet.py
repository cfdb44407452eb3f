"""CATANet: super-resolution by attention between similar tokens."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from ...core.blocks.metaformer import MetaFormerBlock
from ...core.layers.cluster_attention import ClusterAttention
from ...core.layers.conv import Conv
from ...core.layers.conv_gate import ConvMLP
from ...core.layers.patch_attention import PatchAttention
from .heads import PixelShuffle
from .network import Network

_KERNEL = 5  # of the convolution in the channel mixers


class CATANet(Network):
    """Blocks of attention in groups of similar tokens, then in patches; the result is added to the bilinearly enlarged image.

    Source: Liu et al. 2025, "CATANet: Efficient Content-Aware Token Aggregation for Lightweight Image Super-Resolution", section
    3. Groups are of tokens of the whole image: on tiles the result depends on the tile. The defaults are the published network.

    Args:
        scale: output pixels for each input pixel on an axis: 1 to 4.
        dim: channels.
        centres: of groups of tokens, for each block.
        group: tokens of a group, for each block.
        patch: tokens of a patch on each axis, for each block.
        steps: of k-means on each batch of training, for each block.
        key_dim: channels of queries and keys.
        hidden: channels inside the channel mixers.
        heads: a divisor of ``dim`` and ``key_dim``.
        in_channels: of images, in and out.
        stable: whether similar tokens keep their order, so that results are the same on every machine; the published code does
            not see to it.

    Raises:
        ValueError: for another scale, or lists of different lengths.
    """

    halo = 32

    def __init__(
        self,
        scale: int,
        dim: int = 40,
        *,
        centres: Sequence[int] = (16, 32, 64, 128) * 2,
        group: Sequence[int] = (256, 128, 64, 32) * 2,
        patch: Sequence[int] = (16, 20, 24, 28) * 2,
        steps: Sequence[int] = (5,) * 8,
        key_dim: int = 36,
        hidden: int = 96,
        heads: int = 4,
        in_channels: int = 3,
        stable: bool = False,
    ) -> None:
        super().__init__()
        if scale not in (1, 2, 3, 4):
            raise ValueError(f"CATANet: scale is {scale}, allowed are 1 to 4")
        lengths = [len(given) for given in (centres, group, patch, steps)]
        if len(set(lengths)) > 1:
            raise ValueError(f"CATANet: centres, group, patch and steps have lengths {lengths}, expected one each for a block")
        self.scale, self.in_channels, self.out_channels = scale, in_channels, in_channels
        self.first = Conv(in_channels, dim)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                MetaFormerBlock(
                    dim,
                    ClusterAttention(dim, key_dim=key_dim, heads=heads, centres=t, group=g, steps=n, stable=stable),
                    channel_mixer=ConvMLP(dim, hidden, kernel=_KERNEL),
                ),
                _PatchBlock(dim, PatchAttention(dim, key_dim=key_dim, heads=heads, patch=p), hidden=hidden),
                Conv(dim, dim),
            )
            for t, g, p, n in zip(centres, group, patch, steps, strict=True)
        )
        steps_up = {1: {}, 2: {"upconv": 2}, 3: {"upconv": 3}, 4: {"upconv1": 2, "upconv2": 2}}[scale]
        self.ups = nn.ModuleDict(
            {name: Conv(dim, dim * n**2, activation="leaky_relu", slope=0.1) for name, n in steps_up.items()}
        )
        self.shuffle = PixelShuffle(3 if scale == 3 else 2)
        self.last = Conv(dim, in_channels)

    def body(self, x_BCHW: Tensor) -> Tensor:
        shallow_BHWC = self.first(x_BCHW.permute(0, 2, 3, 1))
        y_BHWC = shallow_BHWC
        for block in self.blocks:
            y_BHWC = y_BHWC + block(y_BHWC)
        y_BHWC = y_BHWC + shallow_BHWC
        for conv in self.ups.values():
            y_BHWC = self.shuffle(conv(y_BHWC))
        if self.scale > 1:
            x_BCHW = F.interpolate(x_BCHW, scale_factor=float(self.scale), mode="bilinear")
        made_BHWC: Tensor = self.last(y_BHWC)
        return made_BHWC.permute(0, 3, 1, 2) + x_BCHW


class _PatchBlock(nn.Module):
    """Attention in patches, which has its own residual, then x + mlp(norm(x)), on (B, H, W, C)."""

    def __init__(self, dim: int, attention: PatchAttention, *, hidden: int) -> None:
        super().__init__()
        self.attention = attention
        self.norm = nn.LayerNorm(dim)
        self.channel_mixer = ConvMLP(dim, hidden, kernel=_KERNEL)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        x_BHWC = self.attention(x_BHWC)
        y: Tensor = x_BHWC + self.channel_mixer(self.norm(x_BHWC))
        return y
