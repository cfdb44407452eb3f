"""Convolution: the classes for one to three axes, and full and depthwise convolution of channels-last tensors.

Shapes: B batch, S one to three spatial axes, C channels.
"""

import math
from typing import get_args

import torch
from torch import Tensor, nn

from ..ops.conv import conv
from ..ops.depthwise_conv import Activation, Sees, depthwise_conv

CONVS: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}  # by spatial axes


class Conv(nn.Module):
    """Convolve with zeros outside the image: (B, *S, dim) to (B, *S, out).

    The last channels may be given ``beside`` the others, as a tensor of their own: nothing is joined.

    Args:
        dim: channels in.
        out: channels out.
        kernel: positions on each axis, odd.
        bias: whether there is one.
        activation: what follows, by its name in ``ops.conv``.
        slope: of leaky_relu's negative side.

    Raises:
        ValueError: for an even kernel, another number of axes than one to three, or an unknown activation.
    """

    def __init__(
        self,
        dim: int,
        out: int,
        *,
        kernel: tuple[int, ...] = (3, 3),
        bias: bool = True,
        activation: Activation = "none",
        slope: float = 0.01,
    ) -> None:
        super().__init__()
        if activation not in get_args(Activation):
            raise ValueError(f"Conv: activation is {activation!r}, allowed are {', '.join(get_args(Activation))}")
        if not 1 <= len(kernel) <= 3 or any(k % 2 == 0 for k in kernel):
            raise ValueError(f"Conv: kernel is {tuple(kernel)}, expected 1 to 3 odd sizes")
        self.activation, self.slope = activation, slope
        # Named, shaped and initialised as in nn.Conv1d to nn.Conv3d, whose weights therefore load as they are.
        bound = (dim * math.prod(kernel)) ** -0.5
        self.weight = nn.Parameter(torch.empty(out, dim, *kernel).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor, beside: Tensor | None = None) -> Tensor:
        return conv(x, self.weight, self.bias, beside=beside, activation=self.activation, slope=self.slope)


class DepthwiseConv(nn.Module):
    """Filter every channel on its own, with zeros outside the image: (B, *S, C) to the same shape.

    Args:
        dim: C.
        kernel: positions on each axis.
        bias: whether there is one.
        sees: "around": the kernel, odd then, lies around each position; "before": it ends there, as a causal filter does on one
            axis; "after": it runs the other way, as "before" does on a sequence that is turned round and back again.
        activation: what follows, by its name in ``depthwise_conv``.

    Raises:
        ValueError: if a kernel that lies around has no middle, or for another number of axes than one to three.
    """

    def __init__(
        self,
        dim: int,
        kernel: tuple[int, ...],
        *,
        bias: bool = True,
        sees: Sees = "around",
        activation: Activation = "none",
    ) -> None:
        super().__init__()
        if sees not in get_args(Sees) or activation not in get_args(Activation):
            told = f"sees is {sees!r} and activation {activation!r}"
            raise ValueError(
                f"DepthwiseConv: {told}, allowed are {', '.join(get_args(Sees))} and {', '.join(get_args(Activation))}"
            )
        odd = all(k % 2 for k in kernel)
        if not 1 <= len(kernel) <= 3 or min(kernel) < 1 or (sees == "around" and not odd):
            raise ValueError(f"DepthwiseConv: kernel is {tuple(kernel)}, expected 1 to 3 sizes, odd if they lie around")
        self.sees, self.activation = sees, activation
        # Named, shaped and initialised as in nn.Conv1d to nn.Conv3d, whose weights therefore load as they are.
        bound = math.prod(kernel) ** -0.5
        self.weight = nn.Parameter(torch.empty(dim, 1, *kernel).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(dim).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != self.weight.ndim:
            axes = self.weight.ndim - 2
            raise ValueError(f"DepthwiseConv: x has shape {list(x.shape)}, expected (batch, {axes} axes, channels)")
        return depthwise_conv(x, self.weight, self.bias, sees=self.sees, activation=self.activation)
