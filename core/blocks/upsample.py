"""Twice the size, by a transposed convolution and a residual block."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers.conv import Conv


class UpsampleBlock(nn.Module):
    """Transposed convolution, norm, leaky ReLU; two convolutions, half of whose result is added; norm.

    (batch, rows, columns, dim) to (batch, 2 rows, 2 columns, dim). Source: Noman et al. 2024 (SatMAE++), section 3.3; the half
    and the slope are those of its published program.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(dim, dim, 4, stride=2, padding=1)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.conv1 = Conv(dim, dim, activation="relu")
        self.conv2 = Conv(dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.norm1(self.up(x.movedim(-1, 1)).movedim(1, -1)))
        y: Tensor = self.norm2(torch.add(x, self.conv2(self.conv1(x)), alpha=0.5))
        return y
