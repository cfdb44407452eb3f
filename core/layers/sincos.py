"""Sines and cosines of positions, on a line and on a plane."""

import torch
from torch import Tensor


def sincos(positions: Tensor, dim: int) -> Tensor:
    """Return sines and cosines of positions (...,) at falling frequencies: (..., dim), sines first.

    Source: Vaswani et al. 2017, section 3.5. ``dim`` is even.
    """
    # One over a power, not a negative power: rounded as in the tables of published models, which matters for large positions.
    periods = 10_000.0 ** (torch.arange(dim // 2, device=positions.device, dtype=positions.dtype) / (dim / 2))
    angles = positions[..., None] * (1 / periods)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def plane(columns: Tensor, rows: Tensor, dim: int) -> Tensor:
    """Return sines and cosines on a grid: (batch, columns) and (batch, rows) to (batch, rows, columns, dim).

    The first half of the channels is for columns, the second for rows, as in the code of He et al. 2022 (MAE).
    """
    across, down = sincos(columns, dim // 2)[:, None], sincos(rows, dim // 2)[:, :, None]
    return torch.cat([across.expand(-1, rows.shape[1], -1, -1), down.expand(-1, -1, columns.shape[1], -1)], dim=-1)
