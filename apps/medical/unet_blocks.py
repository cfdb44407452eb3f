"""Residual convolutions of U-nets on channels-last images, with the names of MONAI's parameters.

Shapes: B batch, S two or three spatial axes, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ...core.layers.conv import CONVS, Conv
from ...core.layers.norm import InstanceNormAct
from ...core.ops.affine_act import Affine, affine_act, choose_backend, norm_affine
from ...core.ops.conv import conv_moments
from ...core.ops.conv_transpose import conv_transpose
from ...core.ops.linear import linear

_PART = 1 << 14  # positions that the last layer maps at a time


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
        raise ValueError(
            f'SwinUNETR: norm_name is {norm_name!r}, expected "instance" or ("instance", {{"affine": True, "eps": 1e-5}})'
        )
    return NormOptions(bool(affine), eps)


class Named(nn.Module):
    """A module under the name that MONAI's ``Convolution`` gives it: "conv"."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    @property
    def weight(self) -> Tensor:
        """That of the module."""
        weight = self.conv.weight
        assert isinstance(weight, Tensor)
        return weight

    def forward(self, *x: Tensor | None) -> Tensor:
        y: Tensor = self.conv(*x)
        return y


class UpConv(nn.Module):
    """Transposed convolution whose kernel is its stride, 2: (B, *S, dim) to (B, *2 S, out)."""

    def __init__(self, dim: int, out: int, *, axes: int) -> None:
        super().__init__()
        bound = (out * 2**axes) ** -0.5  # as in PyTorch, which takes the channels out for those in
        self.weight = nn.Parameter(torch.empty(dim, out, *(2,) * axes).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return conv_transpose(x, self.weight)


class ResidualBlock(nn.Module):
    """act(norm(conv(act(norm(conv(x))))) + x), (B, *S, dim) to (B, *S, out), with leaky ReLU.

    Source: MONAI's ``UnetResBlock``, after He et al. 2016. Where channels in and out differ, x is projected and normed.

    Args:
        dim: channels in.
        out: channels out.
        axes: spatial axes.
        norm: options of all norms.
    """

    def __init__(self, dim: int, out: int, *, axes: int, norm: NormOptions = NormOptions()) -> None:
        super().__init__()
        kernel = (3,) * axes

        def normed(activation: Literal["none", "leaky_relu"]) -> InstanceNormAct:
            return InstanceNormAct(out, affine=norm.affine, activation=activation, eps=norm.eps)

        self.conv1, self.conv2 = (
            Named(Conv(dim, out, kernel=kernel, bias=False)),
            Named(Conv(out, out, kernel=kernel, bias=False)),
        )
        self.norm1, self.norm2 = normed("leaky_relu"), normed("leaky_relu")
        self.conv3 = Named(Conv(dim, out, kernel=(1,) * axes, bias=False)) if dim != out else None
        self.norm3 = normed("none") if dim != out else None

    def forward(self, x: Tensor, beside: Tensor | None = None) -> Tensor:
        """Map x, whose last channels may lie ``beside``, (B, *S, dim - those of x): nothing is joined."""
        return self.of([x] if beside is None else [x, beside])

    def of(self, inputs: list[Tensor]) -> Tensor:
        """Do the same, and take the inputs out of the list, so that without gradients their memory is free when they are read."""
        if _has_moments(inputs[0]) and not self._watched():
            return self._by_moments(inputs)
        x, beside = inputs[0], inputs[1] if len(inputs) > 1 else None
        y = self.conv2(self.norm1(self.conv1(x, beside)))
        residual = x if self.conv3 is None or self.norm3 is None else self.norm3(self.conv3(x, beside))
        out: Tensor = self.norm2(y, residual.to(y.dtype))
        return out

    def _watched(self) -> bool:
        """Whether somebody waits for what a layer inside gives."""
        return any(module._forward_hooks or module._forward_pre_hooks for module in self.children())  # noqa: SLF001 - no public question

    def _by_moments(self, inputs: list[Tensor]) -> Tensor:
        """The same without gradients: each convolution takes the moments of what it writes, and norms what it reads."""
        x, beside = inputs[0], inputs[1] if len(inputs) > 1 else None
        y, *moments = conv_moments(x, self.conv1.weight, beside=beside)
        residual, residual_map = x, None
        if self.conv3 is not None and self.norm3 is not None:
            residual, *others = conv_moments(x, self.conv3.weight, beside=beside)
            residual_map = _map(self.norm3, others)
        del x, beside
        inputs.clear()
        slope = self.norm1.slope
        y, *moments = conv_moments(y, self.conv2.weight, before=_map(self.norm1, moments), before_slope=slope)
        return affine_act(y, _map(self.norm2, moments), residual.to(y.dtype), residual_map, slope=slope)


def _has_moments(x: Tensor) -> bool:
    """Whether there are kernels that take moments, for volumes like x."""
    return x.ndim == 5 and not torch.is_grad_enabled() and choose_backend(x.device, x.dtype)[0] == "native"


def _map(norm: InstanceNormAct, moments: Sequence[Tensor]) -> Affine:
    mean, variance = moments
    return norm_affine(mean, variance, norm.weight, norm.bias, eps=norm.eps)


class EncoderBlock(nn.Module):
    """A residual block under the name that MONAI's ``UnetrBasicBlock`` gives it."""

    def __init__(self, dim: int, out: int, *, axes: int, norm: NormOptions = NormOptions()) -> None:
        super().__init__()
        self.layer = ResidualBlock(dim, out, axes=axes, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y


class DecoderBlock(nn.Module):
    """Double the grid, join with what was kept, and a residual block: (B, *S, dim), (B, *2 S, out) to (B, *2 S, out).

    What was kept may come as the only entry of a list, out of which it is taken, so that its memory is free once it is read.
    """

    def __init__(self, dim: int, out: int, *, axes: int, norm: NormOptions) -> None:
        super().__init__()
        self.transp_conv = Named(UpConv(dim, out, axes=axes))
        self.conv_block = ResidualBlock(2 * out, out, axes=axes, norm=norm)

    def forward(self, x: Tensor, skip: Tensor | list[Tensor]) -> Tensor:
        inputs = [self.transp_conv(x), skip.pop() if isinstance(skip, list) else skip]
        del skip
        return self.conv_block.of(inputs)


class Head(nn.Module):
    """A linear map of channels with bias: (B, *S, dim) to channels-first logits (B, out, *S), contiguous."""

    def __init__(self, dim: int, out: int, *, axes: int) -> None:
        super().__init__()
        self.conv = Named(CONVS[axes](dim, out, 1))

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv.conv
        assert isinstance(conv.weight, Tensor)
        assert isinstance(conv.bias, Tensor)
        return channels_first(x, conv.weight.flatten(1), conv.bias)


def channels_first(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Map channels linearly, (B, *S, dim) to (B, out, *S), contiguous."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return linear(x, weight, bias).movedim(-1, 1).contiguous()
    # A part at a time, which is turned round while it is near: half the time of turning the whole.
    rows = x.flatten(1, -2)
    dtype = linear(rows[:, :1], weight, bias).dtype  # that of autocast, if any
    out = x.new_empty(len(x), len(weight), rows.shape[1], dtype=dtype)
    for image, columns in zip(rows, out, strict=True):
        for part, to in zip(image.split(_PART), columns.split(_PART, dim=-1), strict=True):
            to.copy_(linear(part, weight, bias).T)
    return out.view(len(x), len(weight), *x.shape[1:-1])
