"""Where a token stands on the ground."""

import torch
from torch import Tensor, nn

from .tokenizers import Tokens


def sincos(positions: Tensor, dim: int) -> Tensor:
    """Return sines and cosines of positions (...,) at falling frequencies: (..., dim), sines first.

    Source: Vaswani et al. 2017, section 3.5. ``dim`` is even.
    """
    rates = 10_000.0 ** -(torch.arange(dim // 2, device=positions.device, dtype=positions.dtype) / (dim / 2))
    angles = positions[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class MetrePosition(nn.Module):
    """Sines and cosines of a token's row and column in metres: the same distance on the ground for every sensor.

    Source: after Reed et al. 2023 (Scale-MAE), section 3.1. One half of the channels is for columns, one for rows.

    Args:
        dim: channels, a multiple of 4.
        unit: metres that count as a step.
    """

    def __init__(self, dim: int, *, unit: float = 10.0) -> None:
        super().__init__()
        if dim % 4:
            raise ValueError(f"MetrePosition: dim is {dim}, expected a multiple of 4")
        self.dim, self.unit = dim, unit

    def forward(self, tokens: Tokens) -> Tensor:
        """Return (batch, 1, rows, columns, dim)."""
        rows, columns = tokens.x.shape[2:4]
        steps = tokens.pitch.to(tokens.x.device, torch.float32)[:, None] / self.unit
        across, down = (
            sincos(steps * torch.arange(n, device=steps.device, dtype=steps.dtype), self.dim // 2) for n in (columns, rows)
        )
        grid = torch.cat([across[:, None].expand(-1, rows, -1, -1), down[:, :, None].expand(-1, -1, columns, -1)], dim=-1)
        return grid[:, None].to(tokens.x.dtype)
