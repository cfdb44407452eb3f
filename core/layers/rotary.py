"""Rotary positions of a grid of bands and places."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .tokenizers import Tokens


@dataclass(frozen=True, eq=False)
class Rotation:
    """Sines and cosines of the angles by which pairs of channels turn: (batch or 1, tokens, width) each."""

    sin: Tensor
    cos: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Turn (batch, *, tokens, width); channel i turns with channel i + width / 2."""
        shape = (len(self.sin), *(1,) * (x.ndim - 3), *self.sin.shape[1:])
        sin, cos = self.sin.reshape(shape), self.cos.reshape(shape)
        a, b = x.chunk(2, dim=-1)
        return (x * cos + torch.cat([-b, a], dim=-1) * sin).to(x.dtype)

    def at(self, index: Tensor) -> "Rotation":
        """Return those of some tokens, (batch, count) integers."""

        def take(x: Tensor) -> Tensor:
            return x.expand(len(index), -1, -1).gather(1, index[..., None].expand(-1, -1, x.shape[-1]))

        return Rotation(take(self.sin), take(self.cos))


def _rotation(angles: Tensor) -> Rotation:
    both = torch.cat([angles, angles], dim=-1)
    return Rotation(both.sin(), both.cos())


class GridRotation(nn.Module):
    """Angles by the place on the ground and by the wavelength, for attention on the two axes of a grid.

    Source: Su et al. 2021 (RoFormer), section 3.2; over bands and places: LESS ViT (arXiv 2605.18541). A coordinate u turns a
    pair of channels by 2 pi u / period, with periods base^(i / pairs). Of a place, half of the pairs turn by the row, half by the
    column. A radar polarisation has a coordinate below that of any wavelength.

    Args:
        place: channels of a head on the places, a multiple of 4.
        band: channels of a head on the bands, even.
        base: of the periods.
        field: metres that a coordinate of 1 spans, counted from the first token; None: the image spans -1..1 whatever it shows,
            as in the published model.
        spectrum: wavelengths in nm that lie at -1 and 1.
    """

    place_periods: Tensor
    band_periods: Tensor

    def __init__(
        self,
        place: int,
        band: int,
        *,
        base: float = 100.0,
        field: float | None = 1000.0,
        spectrum: tuple[float, float] = (400.0, 2500.0),
    ) -> None:
        super().__init__()
        if place % 4 or band % 2:
            raise ValueError(f"GridRotation: place is {place} and band {band}, expected multiples of 4 and of 2")
        self.field, self.spectrum = field, spectrum
        self.register_buffer("place_periods", base ** (torch.arange(place // 4) / max(place // 4, 1)))
        self.register_buffer("band_periods", base ** (torch.arange(band // 2) / max(band // 2, 1)))

    def forward(self, tokens: Tokens) -> tuple[Rotation, Rotation]:
        """Return the rotations of places, in the order of rows, and of bands.

        Raises:
            ValueError: tokens without wavelengths.
        """
        if tokens.wavelengths is None:
            raise ValueError("GridRotation: the tokens have no wavelengths, expected one for each spectral token")
        # In float32, and in this order, whatever the tokens are: as the published model turns them.
        device, dtype = tokens.x.device, torch.float32
        rows, columns = tokens.x.shape[2:4]
        if self.field is None:
            down, across = ((2 * (torch.arange(0.5, n, device=device, dtype=dtype) / n) - 1)[None] for n in (rows, columns))
        else:
            step = tokens.pitch.to(device, dtype)[:, None] / self.field
            down, across = (step * torch.arange(n, device=device, dtype=dtype) for n in (rows, columns))
        where = torch.stack([down[:, :, None].expand(-1, -1, columns), across[:, None].expand(-1, rows, -1)], dim=-1)
        places = _rotation((2 * math.pi * where.flatten(1, 2)[..., None] / self.place_periods.to(dtype)).flatten(2))
        waves = tokens.wavelengths.to(device, dtype)
        low, high = self.spectrum
        which = torch.where(waves < 0, waves - 1, 2 * ((waves - low) / (high - low)) - 1)
        bands = _rotation((2 * math.pi * which[:, None] / self.band_periods.to(dtype))[None])
        return places, bands
