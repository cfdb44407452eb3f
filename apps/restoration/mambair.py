"""MambaIR: restoration by selective scans across the image."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...core.layers.channel_attention import ChannelGate
from ...core.layers.conv import Conv, DepthwiseConv
from ...core.layers.drop import DropPath
from ...core.layers.linear import Linear
from ...core.layers.norm import norm_residual
from ...core.layers.ss2d import SelectiveScan
from .heads import Upsampler
from .residual import Join, ResidualGroup, ResidualNetwork
from .swinir import skip_rates

_SQUEEZE = 30  # channels for each one that a channel gate is computed in, fixed in the paper's code


class MambaIR(ResidualNetwork):
    """Groups of state-space blocks with a convolution behind each; the scan needs no further package.

    Source: Guo et al. 2024 (MambaIR), section 3. The scans run across the whole image, so that every pixel may depend on all: a
    tile comes near the whole image, and does not equal it. Sizes are free: the image is not filled up.

    Args:
        scale: output pixels for each input pixel on an axis; 1 for denoising and JPEG.
        dim: channels, at least 30.
        depths: blocks of each group.
        state: states of each inner channel and route of the scans.
        expand: inner channels of the scans over ``dim``.
        upsampler: "pixelshuffle" (classical), "pixelshuffledirect" (light), "none" (scale 1).
        light: whether the convolutions of the blocks are depthwise and dilated, as in the published light networks.
        join: convolutions behind each group.
        in_channels: of the image.
        image_range: factor of the image inside the network.
        embed_norm: whether the features are normed before the groups.
        drop_path: probability to skip the scan of the last block in training, less for those before.

    Raises:
        ValueError: for fewer than 30 channels or an impossible value.
    """

    halo = 32

    def __init__(
        self,
        scale: int,
        dim: int = 180,
        *,
        depths: Sequence[int] = (6,) * 6,
        state: int = 16,
        expand: float = 2.0,
        upsampler: Upsampler = "pixelshuffle",
        light: bool = False,
        join: Join = "1conv",
        in_channels: int = 3,
        image_range: float = 1.0,
        embed_norm: bool = True,
        drop_path: float = 0.0,
    ) -> None:
        groups = [
            ResidualGroup(
                dim,
                [StateSpaceBlock(dim, state=state, expand=expand, light=light, drop_path=rate) for rate in rates],
                join=join,
            )
            for rates in skip_rates(drop_path, depths)
        ]
        super().__init__(
            scale,
            dim,
            groups=groups,
            upsampler=upsampler,
            join=join,
            in_channels=in_channels,
            image_range=image_range,
            embed_norm=embed_norm,
        )


class StateSpaceBlock(nn.Module):
    """Selective scan, then convolutions with a channel gate, each beside a scaled residual: (B, H, W, C) to the same shape.

    s1 * x + scan(norm(x)), then s2 * x + convolutions(norm(x)), with a learned factor of each channel in s1 and s2. Source: Guo
    et al. 2024, section 3.3, equation 5.

    Args:
        dim: C, at least 30.
        state, expand: as in ``SelectiveScan``.
        light: whether the convolutions are depthwise and dilated.
        drop_path: probability to skip the scan for a sample in training.

    Raises:
        ValueError: for fewer channels.
    """

    def __init__(self, dim: int, *, state: int, expand: float, light: bool = False, drop_path: float = 0.0) -> None:
        super().__init__()
        if dim < _SQUEEZE:
            raise ValueError(f"StateSpaceBlock: dim is {dim}, expected at least {_SQUEEZE}")
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.scan = SelectiveScan(dim, state=state, expand=expand)
        self.drop_path = DropPath(drop_path)
        self.scale1, self.scale2 = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.ones(dim))
        self.convs = nn.Sequential(
            *(_light_convolutions(dim) if light else _convolutions(dim)), ChannelGate(dim, dim // _SQUEEZE)
        )

    def forward(self, x_BHWC: Tensor) -> Tensor:
        # Sum and norm in one pass over memory; of the two summands x is the one with a factor here.
        x_BHWC, y_BHWC = norm_residual(self.norm2, self.drop_path(self.scan(self.norm1(x_BHWC))), x_BHWC, self.scale1)
        y: Tensor = x_BHWC * self.scale2 + self.convs(y_BHWC)
        return y


def _convolutions(dim: int) -> list[nn.Module]:
    """Two convolutions with a third of the channels between. The activation is part of the first; in its place stands nothing."""
    return [Conv(dim, dim // 3, activation="gelu"), nn.Identity(), Conv(dim // 3, dim)]


def _light_convolutions(dim: int) -> list[nn.Module]:
    """Pointwise and depthwise convolutions with half of the channels between, the last one dilated to reach as far as 5 x 5."""
    half = dim // 2
    first = [Linear(dim, half), DepthwiseConv(half, (3, 3), activation="gelu")]
    # The activation is part of the convolution; in its published place stands nothing.
    return [*first, nn.Identity(), Linear(half, dim), _Dilated(dim)]


class _Dilated(nn.Conv2d):
    """Depthwise convolution of every second pixel: (B, H, W, C) to the same shape."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, 3, padding=2, dilation=2, groups=dim)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        return super().forward(x_BHWC.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
