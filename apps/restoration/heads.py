"""From features to an image at ``scale`` times their size: the ends that restoration networks share.

All map channels-last features (B, H, W, dim) to channels-last images (B, scale * H, scale * W, out).
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.layers.conv import Conv

Upsampler = Literal["pixelshuffle", "pixelshuffledirect", "nearest+conv", "none"]
_FEATURES = 64  # of all published networks


class PixelShuffle(nn.Module):
    """Lay groups of scale^2 channels out as blocks of pixels (Shi et al. 2016, equation 4), channels last."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x_BHWC: Tensor) -> Tensor:
        return F.pixel_shuffle(x_BHWC.permute(0, 3, 1, 2), self.scale).permute(0, 2, 3, 1)


class DoublingConv(Conv):
    """Double every pixel on both axes, then convolve 3 x 3: (B, H, W, in) to (B, 2 H, 2 W, out).

    A pixel of the doubled image sees equal neighbours: its nine weights act on four pixels of the image, so that convolutions of
    2 x 2, one for each of the four places in a doubled pixel, compute the same with 4 / 9 of the multiplications.
    """

    def __init__(self, dim: int, out: int) -> None:
        super().__init__(dim, out)

    def forward(self, x: Tensor) -> Tensor:
        # For the first and the second place on an axis: which of the three weights fall on the one pixel, which on the other.
        falls_PKW = self.weight.new_tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
        weight = torch.einsum("pku,qlv,oiuv->pqoikl", falls_PKW, falls_PKW, self.weight).flatten(0, 2)
        bias = None if self.bias is None else self.bias.repeat(4)
        # At each corner between pixels; a place takes the corner that it touches.
        y_BCHW = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1)
        (height, width), out = x.shape[1:3], len(self.weight)
        y = y_BCHW.permute(0, 2, 3, 1).unflatten(-1, (2, 2, out))
        rows = [
            torch.stack([y[:, a : a + height, b : b + width, a, b] for b in range(2)], dim=3) for a in range(2)
        ]  # (B, H, W, 2, out) each
        return torch.stack(rows, dim=2).reshape(len(x), 2 * height, 2 * width, out)


def _steps(scale: int) -> list[int]:
    """Factors of a scale that convolutions and shuffles reach one after the other."""
    twos = scale.bit_length() - 1
    if scale == 1 << twos:
        return [2] * twos
    if scale == 3:
        return [3]
    raise ValueError(f"scale is {scale}, expected 3 or a power of two")


class ShuffleHead(nn.Module):
    """Convolutions with a pixel shuffle behind each, for large networks ("pixelshuffle"; Lim et al. 2017, EDSR, section 3.3).

    Args:
        dim: channels of the features.
        out: channels of the image.
        scale: 3 or a power of two.
        features: channels while the image grows.

    Raises:
        ValueError: for another scale.
    """

    def __init__(self, dim: int, out: int, *, scale: int, features: int = _FEATURES) -> None:
        super().__init__()
        self.before = Conv(dim, features)
        layers: list[nn.Module] = []
        for step in _steps(scale):
            layers += [Conv(features, step**2 * features), PixelShuffle(step)]
        self.up = nn.Sequential(*layers)
        self.last = Conv(features, out)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        y: Tensor = self.last(self.up(F.leaky_relu(self.before(x_BHWC))))
        return y


class DirectHead(nn.Module):
    """One convolution and a pixel shuffle, for small networks ("pixelshuffledirect"); arguments as ``ShuffleHead``, any scale."""

    def __init__(self, dim: int, out: int, *, scale: int) -> None:
        super().__init__()
        self.up = nn.Sequential(Conv(dim, scale**2 * out), PixelShuffle(scale))

    def forward(self, x_BHWC: Tensor) -> Tensor:
        y: Tensor = self.up(x_BHWC)
        return y


class NearestHead(nn.Module):
    """Pixels doubled and then convolved, which leaves fewer patterns on photographs ("nearest+conv").

    Source: Wang et al. 2018 (ESRGAN), and Liang et al. 2021 (SwinIR), section 3.1. Arguments as ``ShuffleHead``.

    Raises:
        ValueError: if the scale is no power of two.
    """

    def __init__(self, dim: int, out: int, *, scale: int, features: int = _FEATURES) -> None:
        super().__init__()
        if scale < 1 or scale & (scale - 1):
            raise ValueError(f"scale is {scale}, expected a power of two")
        self.before = Conv(dim, features)
        self.ups = nn.ModuleDict({str(step): DoublingConv(features, features) for step in range(1, int(math.log2(scale)) + 1)})
        self.full = Conv(features, features)
        self.last = Conv(features, out)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        x_BHWC = F.leaky_relu(self.before(x_BHWC))
        for conv in self.ups.values():
            x_BHWC = F.leaky_relu(conv(x_BHWC), 0.2)
        y: Tensor = self.last(F.leaky_relu(self.full(x_BHWC), 0.2))
        return y


class PlainHead(nn.Module):
    """One convolution at the size of the features ("none"): scale 1."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.last = Conv(dim, out)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        y: Tensor = self.last(x_BHWC)
        return y


def make_head(kind: Upsampler, dim: int, out: int, *, scale: int) -> nn.Module:
    """Return a head by its name.

    Raises:
        ValueError: for an unknown name or a scale that it cannot make.
    """
    if kind not in get_args(Upsampler):
        raise ValueError(f"upsampler is {kind!r}, allowed are {', '.join(get_args(Upsampler))}")
    if kind == "none":
        if scale != 1:
            raise ValueError(f"scale is {scale}, but without an upsampler it is 1")
        return PlainHead(dim, out)
    if kind == "pixelshuffle":
        return ShuffleHead(dim, out, scale=scale)
    return DirectHead(dim, out, scale=scale) if kind == "pixelshuffledirect" else NearestHead(dim, out, scale=scale)
