"""DLGSANet: super-resolution by dynamic convolution and sparse attention between channels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...core.blocks.metaformer import MetaFormerBlock
from ...core.layers.conv import Conv
from ...core.layers.dynamic_conv import DynamicConv
from ...core.layers.transposed_attention import GatedConvMLP, ScoreActivation, TransposedAttention
from .heads import Upsampler, make_head
from .network import Network
from .residual import MEAN


class DLGSANet(Network):
    """Groups of blocks by turns local, by convolution with kernels made at every position, and global, by attention of channels.

    Source: Li et al. 2023, "DLGSANet: Lightweight Dynamic Local and Global Self-Attention Network for Image Super-Resolution",
    section 3. In evaluation the attention is within tiles of the size of the crops that the network was trained on, which are
    laid out evenly over the image: on tiles of an image the result depends on them.

    Args:
        scale: output pixels for each input pixel on an axis.
        dim: channels.
        groups: each ends in a convolution with a residual.
        pairs: of a local and a global block in each group.
        kernel: of the dynamic convolutions on both axes, odd.
        group_channels: channels that share a dynamic kernel, a divisor of ``dim``.
        heads: of the attention, a divisor of ``dim``.
        activation: of the scores; the published networks have "relu".
        tile: pixels on each axis of the attention's tiles in evaluation: the crop. Default: the whole image.
        upsampler: "pixelshuffledirect" (all published networks), "pixelshuffle", "none" (scale 1; not added to the image).
        in_channels: of images, in and out. The mean colour of RGB images is subtracted.
        image_range: factor of the image inside the network.

    Raises:
        ValueError: for an impossible value.
    """

    halo = 32

    def __init__(
        self,
        scale: int,
        dim: int = 90,
        *,
        groups: int = 6,
        pairs: int = 4,
        kernel: int = 7,
        group_channels: int = 6,
        heads: int = 6,
        activation: ScoreActivation = "relu",
        tile: int | None = 48,
        upsampler: Upsampler = "pixelshuffledirect",
        in_channels: int = 3,
        image_range: float = 1.0,
    ) -> None:
        super().__init__()
        self.scale, self.in_channels, self.out_channels, self.image_range = scale, in_channels, in_channels, image_range
        mean = torch.tensor(MEAN if in_channels == 3 else (0.0,))
        self.register_buffer("mean", mean[:, None, None], persistent=False)
        self.first = Conv(in_channels, dim, bias=False)

        def blocks() -> list[nn.Module]:
            mixers = [
                mixer
                for _ in range(pairs)
                for mixer in (
                    DynamicConv(dim, kernel=kernel, group=group_channels),
                    TransposedAttention(dim, heads=heads, activation=activation, tile=tile),
                )
            ]
            return [MetaFormerBlock(dim, mixer, channel_mixer=GatedConvMLP(dim, 2 * dim)) for mixer in mixers]

        self.deep = nn.Sequential(*(_Group([*blocks(), Conv(dim, dim)]) for _ in range(groups)), Conv(dim, dim))
        self.head = make_head(upsampler, dim, in_channels, scale=scale)

    def body(self, x_BCHW: Tensor) -> Tensor:
        mean_C11 = self.get_buffer("mean")
        shallow_BHWC = self.first(((x_BCHW - mean_C11) * self.image_range).permute(0, 2, 3, 1))
        y_BHWC: Tensor = self.head(self.deep(shallow_BHWC) + shallow_BHWC)
        return y_BHWC.permute(0, 3, 1, 2) / self.image_range + mean_C11


class _Group(nn.Module):
    """Layers one after the other with a residual around them all."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        y_BHWC: Tensor = self.body(x_BHWC) + x_BHWC
        return y_BHWC
