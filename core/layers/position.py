"""Where a token stands."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .conv import DepthwiseConv
from .linear import Linear


class ConvPosition(nn.Module):
    """x + depthwise_convolution(x) on tokens (batch, *size, dim), with zeros outside the image.

    Source: Chu et al. 2023 (conditional positional encodings), section 3.2: the zeros at the border tell tokens where they are.

    Args:
        dim: channels.
        axes: spatial axes.
        kernel: of the convolution on every axis, odd.
    """

    def __init__(self, dim: int, *, axes: int = 2, kernel: int = 3) -> None:
        super().__init__()
        self.conv = DepthwiseConv(dim, (kernel,) * axes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y


class AbsolutePosition(nn.Module):
    """x + a learned vector for each position: tokens (batch, *size, dim) of one size only.

    Args:
        dim: channels.
        size: of the grid of tokens.
    """

    def __init__(self, dim: int, *, size: tuple[int, ...]) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(*size, dim))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1:] != self.table.shape:
            raise ValueError(f"AbsolutePosition: tokens are {tuple(x.shape)}, expected (batch, {tuple(self.table.shape)})")
        return x + self.table


class ContinuousBias(nn.Module):
    """A table of position biases as a function of the relative position, so that it carries over to other windows.

    Source: Liu et al. 2022 (Swin V2), section 3.3: 16 sigmoid(G(s)) with a two-layer perceptron G and coordinates
    s = sign(d) log2(1 + |d|) / log2(8), where d is the relative position scaled to -8..8.

    Args:
        window: tokens per window on each spatial axis.
        heads: attention heads.
        pretrained: the window that is scaled to -8..8 on each axis, where it is not ``window``: the one of the pre-training.
        hidden: units of the perceptron.
    """

    def __init__(
        self, window: tuple[int, ...], heads: int, *, pretrained: tuple[int, ...] | None = None, hidden: int = 512
    ) -> None:
        super().__init__()
        ends = [max(p - 1, 1) for p in (window if pretrained is None else pretrained)]
        axes = [torch.arange(1 - w, w, dtype=torch.float64) * (8 / end) for w, end in zip(window, ends, strict=True)]
        axes = [d.sign() * d.abs().add(1).log2() / math.log2(8) for d in axes]
        coordinates = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)
        self.register_buffer("coordinates", coordinates.to(torch.get_default_dtype()), persistent=False)
        self.fc1 = Linear(len(window), hidden)
        self.fc2 = Linear(hidden, heads, bias=False)

    def forward(self) -> Tensor:
        """Return the table (product of 2 window - 1, heads)."""
        coordinates: Tensor = self.get_buffer("coordinates")
        table: Tensor = self.fc2(F.relu(self.fc1(coordinates)))
        return 16 * table.sigmoid()
