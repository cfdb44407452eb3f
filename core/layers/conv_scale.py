"""Stems and downsampling made of convolutions with batch norms, for one to three axes.

Source: the code of Han et al. 2024 (MLLA), which VSSD (Shi et al. 2024, section 3.3) takes over; its names of parameters.
"""

from typing import Any

from torch import Tensor, nn

from .conv import CONVS

_NORMS: dict[int, type[nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d]] = {
    1: nn.BatchNorm1d,
    2: nn.BatchNorm2d,
    3: nn.BatchNorm3d,
}


class ConvUnit(nn.Module):
    """Convolution, batch norm and ReLU, the last two optional: (batch, dim, *size) to (batch, out, *ceil(size / stride)).

    Args:
        dim, out: channels in and out.
        axes: spatial axes.
        kernel, stride: of the convolution, on every axis. It is surrounded by ``(kernel - 1) // 2`` zeros if the kernel is odd.
        depthwise: whether each channel is convolved alone.
        bias: whether the convolution has one.
        norm: whether a batch norm follows.
        act: whether a ReLU ends it.
    """

    def __init__(
        self,
        dim: int,
        out: int,
        *,
        axes: int,
        kernel: int = 1,
        stride: int = 1,
        depthwise: bool = False,
        bias: bool = False,
        norm: bool = True,
        act: bool = True,
    ) -> None:
        super().__init__()
        if axes not in CONVS:
            raise ValueError(f"ConvUnit: axes is {axes}, expected 1 to 3")
        options: dict[str, Any] = {"stride": stride, "groups": dim if depthwise else 1, "bias": bias}
        self.conv = CONVS[axes](dim, out, kernel, padding=(kernel - 1) // 2 if kernel % 2 else 0, **options)
        self.norm = _NORMS[axes](out) if norm else nn.Identity()
        self.act = nn.ReLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.norm(self.conv(x)))
        return y


class ConvStem(nn.Module):
    """Six convolutions to a quarter of the size: (batch, channels, *size) to (batch, *ceil(ceil(size / 2) / 2), out).

    Args:
        dim: channels of the image.
        out: channels of the tokens, even.
        axes: spatial axes.
    """

    def __init__(self, dim: int, out: int, *, axes: int = 2) -> None:
        super().__init__()
        half, wide = out // 2, 4 * out
        self.conv1 = ConvUnit(dim, half, axes=axes, kernel=3, stride=2)
        self.conv2 = nn.Sequential(
            ConvUnit(half, half, axes=axes, kernel=3), ConvUnit(half, half, axes=axes, kernel=3, act=False)
        )
        self.conv3 = nn.Sequential(ConvUnit(half, wide, axes=axes, kernel=3, stride=2), ConvUnit(wide, out, axes=axes, act=False))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        y: Tensor = self.conv3(x + self.conv2(x))
        return y.movedim(1, -1)


class PatchConvStem(nn.Module):
    """One convolution over patches of four, batch norm, ReLU and layer norm: (batch, channels, *size) to (batch, *size / 4, out).

    What is left of a size that is no multiple of four is cut off.
    """

    def __init__(self, dim: int, out: int, *, axes: int = 2) -> None:
        super().__init__()
        self.conv1 = ConvUnit(dim, out, axes=axes, kernel=4, stride=4)
        self.norm = nn.LayerNorm(out)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv1(x).movedim(1, -1))
        return y


class InvertedDownsample(nn.Module):
    """Widen fourfold, convolve depthwise with stride two, narrow: (batch, *size, dim) to (batch, *ceil(size / 2), out)."""

    def __init__(self, dim: int, out: int, *, axes: int = 2) -> None:
        super().__init__()
        wide = 4 * out
        self.conv = nn.Sequential(
            ConvUnit(dim, wide, axes=axes, bias=True, norm=False),
            ConvUnit(wide, wide, axes=axes, kernel=3, stride=2, depthwise=True, bias=True, norm=False),
            ConvUnit(wide, out, axes=axes, bias=True, act=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x.movedim(-1, 1))
        return y.movedim(1, -1)


class ConvDownsample(nn.Module):
    """A convolution with stride two, ReLU and layer norm: (batch, *size, dim) to (batch, *ceil(size / 2), out)."""

    def __init__(self, dim: int, out: int, *, axes: int = 2) -> None:
        super().__init__()
        self.conv = nn.Sequential(ConvUnit(dim, out, axes=axes, kernel=3, stride=2, bias=True, norm=False))
        self.norm = nn.LayerNorm(out)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x.movedim(-1, 1)).movedim(1, -1))
        return y
