"""Positions of the tokens of published models, and how positions are put together.

A position is a module with ``dim`` that is called with ``Tokens`` and returns what is added to them: (batch or 1, spectral or 1,
rows or 1, columns or 1, dim). Those in metres and nanometres are in ``metre_position``.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .sincos import plane, sincos
from .tokenizers import Tokens


@runtime_checkable
class TokenPosition(Protocol):
    """A module that says where tokens stand."""

    dim: int

    def __call__(self, tokens: Tokens) -> Tensor:
        """Return (batch or 1, spectral or 1, rows or 1, columns or 1, dim) in the dtype of the tokens."""
        ...


class GridPosition(nn.Module):
    """Sines and cosines of a token's column and row, counted from 0: the fixed table of MAE (He et al. 2022).

    Args:
        dim: channels, a multiple of 4.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim % 4:
            raise ValueError(f"GridPosition: dim is {dim}, expected a multiple of 4")
        self.dim = dim

    def forward(self, tokens: Tokens) -> Tensor:
        """Return (1, 1, rows, columns, dim)."""
        dtype = torch.promote_types(tokens.x.dtype, torch.float32)
        row, column = (torch.arange(n, device=tokens.x.device, dtype=dtype)[None] for n in tokens.x.shape[2:4])
        return plane(column, row, self.dim)[:, None].to(tokens.x.dtype)


class OrderPosition(nn.Module):
    """Sines and cosines of the number of a spectral token, from 0: SatMAE's encoding of groups (Cong et al. 2022, section 3.3).

    Args:
        dim: channels, even.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim % 2:
            raise ValueError(f"OrderPosition: dim is {dim}, expected an even number")
        self.dim = dim

    def forward(self, tokens: Tokens) -> Tensor:
        """Return (1, spectral, 1, 1, dim)."""
        dtype = torch.promote_types(tokens.x.dtype, torch.float32)
        order = torch.arange(tokens.x.shape[1], device=tokens.x.device, dtype=dtype)
        return sincos(order, self.dim)[None, :, None, None].to(tokens.x.dtype)


class TablePosition(nn.Module):
    """A learned vector for each place of a grid, interpolated (bicubic) to grids of another size.

    With a spectral axis of 1 it is ViT's; with rows and columns of 1 one vector for each spectral token; the sum of these two is
    SpectralGPT's separable table.

    Args:
        dim: channels.
        size: (spectral, rows, columns) of the table; an axis of 1 is alike everywhere.
    """

    def __init__(self, dim: int, *, size: tuple[int, int, int]) -> None:
        super().__init__()
        self.dim, self.size = dim, size
        self.table = nn.Parameter(torch.empty(*size, dim))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, tokens: Tokens) -> Tensor:
        """Return (1, *size, dim), rows and columns like those of the tokens where the table has some.

        Raises:
            ValueError: another number of spectral tokens than the table has.
        """
        spectral, rows, columns = self.size
        if spectral not in (1, tokens.x.shape[1]):
            raise ValueError(f"TablePosition: got {tokens.x.shape[1]} spectral tokens, the table has {spectral}")
        table: Tensor = self.table
        if (rows, columns) not in ((1, 1), tokens.x.shape[2:4]):
            maps = F.interpolate(table.movedim(-1, 1), size=tokens.x.shape[2:4], mode="bicubic", align_corners=False)
            table = maps.movedim(1, -1)
        return table[None].to(tokens.x.dtype)


class SumPosition(nn.Module):
    """The sum of several positions, times a factor.

    Args:
        parts: modules that are ``TokenPosition``, of one ``dim``.
        scale: of the sum.
    """

    def __init__(self, parts: Sequence[nn.Module], *, scale: float = 1.0) -> None:
        super().__init__()
        self.parts, self.scale = nn.ModuleList(parts), scale
        widths = _widths(parts)
        if len(set(widths)) != 1:
            raise ValueError(f"SumPosition: parts have dim {', '.join(map(str, widths))}, expected one")
        self.dim = widths[0]

    def forward(self, tokens: Tokens) -> Tensor:
        """Return the sum, of the shape that the parts' shapes give together."""
        total: Tensor = sum(part(tokens) for part in self.parts)
        return total if self.scale == 1 else total * self.scale


class JoinedPosition(nn.Module):
    """Several positions side by side on the channels: SatMAE's place and group (Cong et al. 2022, section 3.3).

    Args:
        parts: modules that are ``TokenPosition``; the sum of their ``dim`` is that of the tokens.
    """

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.dim = sum(_widths(parts))

    def forward(self, tokens: Tokens) -> Tensor:
        """Return (batch or 1, spectral or 1, rows or 1, columns or 1, dim)."""
        made = [part(tokens) for part in self.parts]
        shape = torch.broadcast_shapes(*(m.shape[:-1] for m in made))  # type: ignore[no-untyped-call]
        return torch.cat([m.expand(*shape, -1) for m in made], dim=-1)


def _widths(parts: Sequence[nn.Module]) -> list[int]:
    widths = []
    for part in parts:
        assert isinstance(part, TokenPosition)
        widths.append(part.dim)
    return widths
