"""Residual convolutions of U-nets on channels-last images, with the names of MONAI's parameters.

Shapes: B batch, S two or three spatial axes, C channels.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ...core.layers.conv import CONVS, Conv
from ...core.layers.norm import InstanceNormAct
from ...core.ops.linear import linear


@dataclass(frozen=True)
class NormOptions:
    """Instance norm as MONAI's ``norm_name`` gives it.

    Args:
        affine: whether each channel has a learned weight and bias.
        eps: added to the variance.
    """

    affine: bool = False
    eps: float = 1e-5


def norm_options(norm_name: str | tuple[str, dict[str, object]]) -> NormOptions:
    """Read MONAI's ``norm_name``: "instance", or ("instance", {"affine": True, "eps": 1e-5}).

    Raises:
        ValueError: for any other norm, and for statistics that are kept from batch to batch.
    """
    name, given = (norm_name, {}) if isinstance(norm_name, str) else norm_name
    options = {key: value for key, value in given.items() if not (key == "track_running_stats" and not value)}
    options.pop("momentum", None)  # of statistics that are not kept
    affine, eps = options.pop("affine", False), options.pop("eps", 1e-5)
    if name.lower() != "instance" or options or not isinstance(eps, float):
        raise ValueError(f'SwinUNETR: norm_name is {norm_name!r}, expected "instance" or ("instance", {{"affine": True, "eps": 1e-5}})')
    return NormOptions(bool(affine), eps)


def named(module: nn.Module) -> nn.Sequential:
    """Return a module under the name that MONAI's ``Convolution`` gives it: "conv"."""
    return nn.Sequential(OrderedDict(conv=module))


class PointwiseConv(nn.Module):
    """A linear map of channels, (B, *S, dim) to (B, *S, out), whose weight has the shape of a convolution's."""

    def __init__(self, dim: int, out: int, *, axes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out, dim, *(1,) * axes).uniform_(-(dim**-0.5), dim**-0.5))

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight.flatten(1))


class UpConv(nn.Module):
    """Transposed convolution whose kernel is its stride, 2: (B, *S, dim) to (B, *2 S, out)."""

    def __init__(self, dim: int, out: int, *, axes: int) -> None:
        super().__init__()
        bound = (out * 2**axes) ** -0.5  # as in PyTorch, which takes the channels out for those in
        self.weight = nn.Parameter(torch.empty(dim, out, *(2,) * axes).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        axes = x.ndim - 2
        y = linear(x, self.weight.movedim((0, 1), (-1, -2)).flatten(0, -2))  # (B, *S, 2, 2, (2,) out)
        y = y.unflatten(-1, (*(2,) * axes, -1))
        # B, each axis with its two halves, out
        order = [0, *(a for axis in range(axes) for a in (1 + axis, 1 + axes + axis)), 1 + 2 * axes]
        return y.permute(order).reshape(len(x), *(2 * n for n in x.shape[1:-1]), -1)


class ResidualBlock(nn.Module):
    """act(norm(conv(act(norm(conv(x))))) + x), (B, *S, dim) to (B, *S, out), with leaky ReLU.

    Source: MONAI's ``UnetResBlock``, after He et al. 2016. Where channels in and out differ, x is projected and normed.

    Args:
        dim: channels in.
        out: channels out.
        axes: spatial axes.
        norm: options of all norms.
    """

    def __init__(self, dim: int, out: int, *, axes: int, norm: NormOptions = NormOptions()) -> None:  # noqa: B008 - it is frozen
        super().__init__()
        kernel = (3,) * axes

        def normed(activation: Literal["none", "leaky_relu"]) -> InstanceNormAct:
            return InstanceNormAct(out, affine=norm.affine, activation=activation, eps=norm.eps)

        self.conv1, self.conv2 = named(Conv(dim, out, kernel=kernel, bias=False)), named(Conv(out, out, kernel=kernel, bias=False))
        self.norm1, self.norm2 = normed("leaky_relu"), normed("leaky_relu")
        self.conv3 = named(PointwiseConv(dim, out, axes=axes)) if dim != out else None
        self.norm3 = normed("none") if dim != out else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.norm1(self.conv1(x)))
        residual = x if self.conv3 is None or self.norm3 is None else self.norm3(self.conv3(x))
        out: Tensor = self.norm2(y, residual)
        return out


class EncoderBlock(nn.Module):
    """A residual block under the name that MONAI's ``UnetrBasicBlock`` gives it."""

    def __init__(self, dim: int, out: int, *, axes: int, norm: NormOptions = NormOptions()) -> None:  # noqa: B008 - it is frozen
        super().__init__()
        self.layer = ResidualBlock(dim, out, axes=axes, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y


class DecoderBlock(nn.Module):
    """Double the grid, join with what was kept, and a residual block: (B, *S, dim), (B, *2 S, out) to (B, *2 S, out)."""

    def __init__(self, dim: int, out: int, *, axes: int, norm: NormOptions) -> None:
        super().__init__()
        self.transp_conv = named(UpConv(dim, out, axes=axes))
        self.conv_block = ResidualBlock(2 * out, out, axes=axes, norm=norm)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        y: Tensor = self.conv_block(torch.cat([self.transp_conv(x), skip], dim=-1))
        return y


class Head(nn.Module):
    """A linear map of channels with bias: (B, *S, dim) to channels-first logits (B, out, *S), contiguous."""

    def __init__(self, dim: int, out: int, *, axes: int) -> None:
        super().__init__()
        self.conv = named(CONVS[axes](dim, out, 1))

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv.get_submodule("conv")
        assert isinstance(conv.weight, Tensor)
        assert isinstance(conv.bias, Tensor)
        rows = x.flatten(1, -2).mT  # (B, dim, positions)
        y = conv.weight.flatten(1) @ rows + conv.bias[:, None]
        return y.unflatten(-1, x.shape[1:-1])
