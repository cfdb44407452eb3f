"""The frame of SwinIR and its descendants: a convolution, groups of blocks, a convolution, a sum, and a head."""

from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from ...core.layers.conv import Conv
from .heads import PlainHead, Upsampler, make_head
from .network import Network

_SLOPE = 0.2
Join = Literal["1conv", "3conv"]
MEAN = (0.4488, 0.4371, 0.4040)  # of the RGB images of DIV2K, on which all of these networks were trained first


def make_join(kind: Join, dim: int) -> nn.Module:
    """Return what ends a group: one convolution, or three with a quarter of the channels between them.

    Raises:
        ValueError: for another kind.
    """
    if kind not in get_args(Join):
        raise ValueError(f"join is {kind!r}, allowed are {', '.join(get_args(Join))}")
    if kind == "1conv":
        return Conv(dim, dim)
    narrow = dim // 4
    return nn.Sequential(
        Conv(dim, narrow, activation="leaky_relu", slope=_SLOPE),
        Conv(narrow, narrow, kernel=(1, 1), activation="leaky_relu", slope=_SLOPE),
        Conv(narrow, dim),
    )


class ResidualGroup(nn.Module):
    """x + join(blocks(x)) on channels-last features (B, H, W, dim)."""

    def __init__(self, dim: int, blocks: Sequence[nn.Module] | nn.Sequential, *, join: Join = "1conv") -> None:
        super().__init__()
        self.blocks = blocks if isinstance(blocks, nn.Sequential) else nn.Sequential(*blocks)
        self.conv = make_join(join, dim)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        # The sum is in the wider type: under autocast the stream stays in float32, as do the sums of the blocks.
        y: Tensor = x_BHWC + self.conv(self.blocks(x_BHWC))
        return y


class ResidualNetwork(Network):
    """Features from one convolution, a sum of them with what groups of blocks and another convolution make, and a head.

    Source: Liang et al. 2021 (SwinIR), section 3.1. At scale 1 without an upsampler the network adds its result to the image.
    Under autocast the features between groups and blocks stay in float32.

    Args:
        scale: of the image.
        dim: channels of the features.
        groups: each maps channels-last features (B, H, W, dim) to the same shape.
        upsampler: name of the head; see ``heads``.
        join: the convolution behind the groups.
        in_channels: of the image, and of the result. The mean of colour images (3 channels) is subtracted.
        image_range: factor of the image inside the network: 255 in SwinIR's networks for JPEG.
        embed_norm: whether the features are normed before the groups.
    """

    unsafe: ClassVar[dict[torch.dtype, str]] = {
        torch.float16: "features grow from group to group, beyond 65504, the largest float16 (SwinIR issues 103 and 180)"
    }

    def __init__(
        self,
        scale: int,
        dim: int,
        *,
        groups: Sequence[nn.Module],
        upsampler: Upsampler,
        join: Join = "1conv",
        in_channels: int = 3,
        image_range: float = 1.0,
        embed_norm: bool = True,
    ) -> None:
        super().__init__()
        self.scale, self.in_channels, self.out_channels, self.image_range = scale, in_channels, in_channels, image_range
        mean = torch.tensor(MEAN if in_channels == 3 else (0.0,))
        self.register_buffer("mean", mean[:, None, None], persistent=False)
        self.first = Conv(in_channels, dim)
        self.embed_norm = nn.LayerNorm(dim) if embed_norm else None
        self.groups = nn.Sequential(*groups)
        self.norm = nn.LayerNorm(dim)
        self.conv = make_join(join, dim)
        self.head = make_head(upsampler, dim, in_channels, scale=scale)

    def body(self, x_BCHW: Tensor) -> Tensor:
        mean_C11 = self.get_buffer("mean")
        x_BHWC = ((x_BCHW - mean_C11) * self.image_range).permute(0, 2, 3, 1)
        # Autocast makes bfloat16 of it, in which a sum of many small terms would get lost.
        shallow_BHWC = self.first(x_BHWC).to(self.norm.weight.dtype)
        y_BHWC: Tensor = shallow_BHWC if self.embed_norm is None else self.embed_norm(shallow_BHWC)
        y_BHWC = self.head(self.conv(self.norm(self.groups(y_BHWC))) + shallow_BHWC)
        if isinstance(self.head, PlainHead):
            y_BHWC = x_BHWC + y_BHWC
        return y_BHWC.permute(0, 3, 1, 2) / self.image_range + mean_C11
