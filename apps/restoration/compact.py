"""Compact: a plain chain of 3 x 3 convolutions, for speed and for training on little hardware."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .network import Network


class Compact(Network):
    """Convolutions at the input's resolution, one pixel shuffle, and the enlarged input added to what they give.

    Source: the network that Wang et al. 2021 (Real-ESRGAN, arXiv 2107.10833) publish as SRVGGNetCompact for videos and anime.

    Args:
        scale: output pixels for each input pixel.
        channels: of images.
        width: channels of the convolutions.
        depth: convolutions between the first and the last.

    Raises:
        ValueError: for a number below 1.
    """

    exact_halo = True

    def __init__(self, scale: int = 2, channels: int = 3, *, width: int = 64, depth: int = 16) -> None:
        super().__init__()
        if min(scale, channels, width, depth) < 1:
            raise ValueError(
                f"scale, channels, width, depth are {scale}, {channels}, {width}, {depth}: allowed are numbers from 1 on"
            )
        self.scale = scale
        self.in_channels = self.out_channels = channels
        self.halo = depth + 2
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.PReLU(width)]
        for _ in range(depth):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.PReLU(width)]
        last = nn.Conv2d(width, channels * scale**2, 3, padding=1)
        for layer in (*layers, last):
            if isinstance(layer, nn.Conv2d):
                # Keeps the signal's size through PReLU of slope 1/4 (He et al. 2015, arXiv 1502.01852, section 2.2): there are no
                # residuals and no normalisation that would do it.
                nn.init.kaiming_normal_(layer.weight, a=0.25)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            last.weight.mul_(0.1)  # so that training starts near the enlarged input
        self.convolutions = nn.Sequential(*layers, last).to(memory_format=torch.channels_last)

    def body(self, x_BCHW: Tensor) -> Tensor:
        """Restore images of any size."""
        detail_BCHW = self.convolutions(x_BCHW.contiguous(memory_format=torch.channels_last))
        return F.pixel_shuffle(detail_BCHW, self.scale) + F.interpolate(x_BCHW, scale_factor=self.scale, mode="nearest")
