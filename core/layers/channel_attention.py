"""Attention over channels from their means over space."""

from torch import Tensor, nn


class SqueezeExcite(nn.Module):
    """Multiply each channel by a gate computed from all channels' means over space: (batch, dim, *size) to the same shape.

    Source: Hu et al. 2018 (squeeze and excitation), equations 2 to 4. It looks at the whole image: on tiles the result depends on
    the tile.
    """

    def __init__(self, dim: int, *, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(dim // reduction, 1)
        self.squeeze = nn.Linear(dim, hidden, bias=False)
        self.act = nn.ReLU()
        self.excite = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.excite(self.act(self.squeeze(x.flatten(2).mean(-1)))).sigmoid()
        return x * gate.reshape(*gate.shape, *[1] * (x.ndim - 2))
