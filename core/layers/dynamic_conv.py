"""Depthwise convolution whose kernel is made anew at every position.

Shapes: B batch, H height, W width, C channels, G groups of channels with a kernel each, D channels of a group, T taps.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .conv import DepthwiseConv
from .linear import Linear
from .reuse import add

_REDUCTION = 4  # channels for each one that kernels are made of


class DynamicConv(nn.Module):
    """proj(sum over taps t of kernel_t * (value x) shifted by t), the kernels computed from value x: (B, H, W, C) to the same.

    Kernels are linear in a quarter of the channels, behind a depthwise convolution of their size. Nothing makes their entries
    positive or sum to one: attention to a neighbourhood without softmax and queries. Source: Li et al. 2023 (DLGSANet), section
    3.2 (multi-head dynamic local self-attention); Han et al. 2022, "On the Connection between Local Attention and Dynamic
    Depth-wise Convolution".

    Args:
        dim: C.
        kernel: taps on each axis, odd.
        group: D, channels that share a kernel, a divisor of ``dim``.

    Raises:
        ValueError: if the kernel is even or the groups do not fit.
    """

    def __init__(self, dim: int, *, kernel: int, group: int) -> None:
        super().__init__()
        if kernel % 2 == 0 or dim % group or dim < _REDUCTION:
            told = f"kernel is {kernel}, dim {dim} and group {group}"
            raise ValueError(f"DynamicConv: {told}, expected an odd kernel and at least {_REDUCTION} channels in whole groups")
        self.kernel, self.groups, narrow = kernel, dim // group, dim // _REDUCTION
        self.value = Linear(dim, dim, bias=False)
        self.reduce, self.context = Linear(dim, narrow), DepthwiseConv(narrow, (kernel, kernel))
        self.expand = Linear(narrow, self.groups * kernel**2)
        self.proj = Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        value = self.value(x)
        kernels_BHWGT = torch.unflatten(self.expand(self.context(self.reduce(value))), -1, (self.groups, self.kernel**2))
        reach = self.kernel // 2
        around = torch.unflatten(F.pad(value, (0, 0, reach, reach, reach, reach)), -1, (self.groups, -1))
        # Tap by tap: all neighbours of all positions at once would be as many images as there are taps.
        out = torch.zeros_like(around[:, :height, :width])
        for tap in range(self.kernel**2):
            top, left = divmod(tap, self.kernel)
            out = add(out, around[:, top : top + height, left : left + width], kernels_BHWGT[..., tap, None])
        projected: Tensor = self.proj(out.flatten(-2))
        return projected
