"""From features to an image at ``scale`` times their size: the ends that restoration networks share.

All map channels-last features (B, H, W, dim) to channels-last images (B, scale * H, scale * W, out).
"""

from typing import Literal, get_args

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


def _conv(features: int) -> Conv:
    return Conv(features, features, activation="leaky_relu", slope=0.2)


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
        self.before = Conv(dim, features, activation="leaky_relu")
        layers: list[nn.Module] = []
        for step in _steps(scale):
            layers += [Conv(features, step**2 * features), PixelShuffle(step)]
        self.up = nn.Sequential(*layers)
        self.last = Conv(features, out)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        y: Tensor = self.last(self.up(self.before(x_BHWC)))
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
        self.before = Conv(dim, features, activation="leaky_relu")
        self.ups = nn.ModuleDict({str(step): _conv(features) for step in range(1, scale.bit_length())})
        self.full = _conv(features)
        self.last = Conv(features, out)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        x_BHWC = self.before(x_BHWC)
        for conv in self.ups.values():
            # F.interpolate would do the same, but torch.compile fails on it when a second size comes.
            doubled = x_BHWC[:, :, None, :, None].expand(-1, -1, 2, -1, 2, -1)
            x_BHWC = conv(doubled.flatten(3, 4).flatten(1, 2))
        y: Tensor = self.last(self.full(x_BHWC))
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
