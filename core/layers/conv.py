"""Depthwise convolution of channels-last tensors.

Shapes: B batch, S one to three spatial axes, C channels.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Sees = Literal["around", "before", "after"]


class DepthwiseConv(nn.Module):
    """Filter every channel on its own, with zeros outside the image: (B, *S, C) to the same shape.

    All layers of state-space models convolve through this class, so that one place decides how.

    Args:
        dim: C.
        kernel: positions on each axis.
        bias: whether there is one.
        sees: "around": the kernel, odd then, lies around each position; "before": it ends there, as a causal filter does on one
            axis; "after": it runs the other way, as "before" does on a sequence that is turned round and back again.

    Raises:
        ValueError: if a kernel that lies around has no middle, or for another number of axes than one to three.
    """

    def __init__(self, dim: int, kernel: tuple[int, ...], *, bias: bool = True, sees: Sees = "around") -> None:
        super().__init__()
        if sees not in get_args(Sees):
            raise ValueError(f"DepthwiseConv: sees is {sees!r}, expected 'around', 'before' or 'after'")
        odd = all(k % 2 for k in kernel)
        if not 1 <= len(kernel) <= 3 or min(kernel) < 1 or (sees == "around" and not odd):
            raise ValueError(f"DepthwiseConv: kernel is {tuple(kernel)}, expected 1 to 3 sizes, odd if they lie around")
        self.sees = sees
        # Named, shaped and initialised as in nn.Conv1d to nn.Conv3d, whose weights therefore load as they are.
        bound = math.prod(kernel) ** -0.5
        self.weight = nn.Parameter(torch.empty(dim, 1, *kernel).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(dim).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        kernel = tuple(self.weight.shape[2:])
        if x.ndim != len(kernel) + 2:
            raise ValueError(f"DepthwiseConv: x has shape {list(x.shape)}, expected (batch, {len(kernel)} axes, channels)")
        if self.sees == "around":
            return _filter(x, self.weight, self.bias, [k // 2 for k in kernel])
        # The same padding on both sides costs no copy of the input; what is too much is cut off the output.
        weight = self.weight if self.sees == "before" else self.weight.flip(list(range(2, x.ndim)))
        y = _filter(x, weight, self.bias, [k - 1 for k in kernel])
        for axis, (n, k) in enumerate(zip(x.shape[1:-1], kernel, strict=True), start=1):
            y = y.narrow(axis, 0 if self.sees == "before" else k - 1, n)
        return y


def _filter(x: Tensor, weight: Tensor, bias: Tensor | None, padding: list[int]) -> Tensor:
    """Convolve (B, *S, C) with equal padding on both sides; torch reads and writes the channels-last layout as it is."""
    if x.ndim == 3:  # as an image of one row, because torch has such a layout for images and volumes only
        return _filter(x[:, None], weight[:, :, None], bias, [0, *padding])[:, 0]
    conv = F.conv2d if x.ndim == 4 else F.conv3d
    return conv(x.movedim(-1, 1), weight, bias, padding=tuple(padding), groups=len(weight)).movedim(1, -1)
