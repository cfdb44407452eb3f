"""Stochastic depth."""

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """In training, set a whole sample to zero with probability ``rate`` and scale the others by 1 / (1 - rate).

    Put on a residual branch it skips the branch (Huang et al. 2016). In evaluation it does nothing.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"DropPath: rate is {rate}, expected 0 <= rate < 1")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, ...) to the same shape."""
        if not self.training or self.rate == 0:
            return x
        keep = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) >= self.rate
        return x * keep.to(x.dtype) / (1 - self.rate)
