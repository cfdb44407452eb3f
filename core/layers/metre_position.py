"""Where a token stands on the ground and in the spectrum, in metres and nanometres: sines and cosines, alike for every sensor."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from .sincos import plane, sincos
from .tokenizers import RADAR, Tokens


class MetrePosition(nn.Module):
    """Sines and cosines of a token's row and column in metres: the same distance on the ground for every sensor.

    Source: after Reed et al. 2023 (Scale-MAE), section 3.1. One half of the channels is for columns, one for rows.

    Args:
        dim: channels, a multiple of 4.
        unit: metres that count as a step.
        weight: what sines and cosines are multiplied with. At 1 they are as large as the tokens of a standardised image.
    """

    def __init__(self, dim: int, *, unit: float = 10.0, weight: float = 1.0) -> None:
        super().__init__()
        if dim % 4:
            raise ValueError(f"MetrePosition: dim is {dim}, expected a multiple of 4")
        self.dim, self.unit, self.weight = dim, unit, weight

    def forward(self, tokens: Tokens) -> Tensor:
        """Return (batch, 1, rows, columns, dim), or with a batch of 1 if all have one pitch."""
        rows, columns = tokens.x.shape[2:4]
        dtype = torch.promote_types(tokens.x.dtype, torch.float32)
        pitch = tokens.pitch.to(tokens.x.device, dtype)
        # Mostly all images of a batch have one pitch: one table then does. (A GPU would wait for the answer.)
        alike = not torch.compiler.is_exporting() and pitch.device.type == "cpu" and bool((pitch == pitch[0]).all())
        pitch = pitch[:1] if alike else pitch
        steps = pitch[:, None] / self.unit
        column, row = (steps * torch.arange(n, device=steps.device, dtype=dtype) for n in (columns, rows))
        table = plane(column, row, self.dim)[:, None].to(tokens.x.dtype)
        return table if self.weight == 1 else table * self.weight


class SpectralPosition(nn.Module):
    """Sines and cosines of a spectral token's wavelength, in float32; a vector for each radar polarisation.

    Source: LESS ViT (arXiv 2605.18541), the channel part of its continuous positional-channel embedding, where a step is 1 nm.

    Args:
        dim: channels, even.
        unit: nanometres that count as a step.
        origin: the wavelength in nm at which steps start.
        radar: "learned" vectors, or the wavelengths in nm that stand for the polarisations, in the order of ``RADAR``.
    """

    def __init__(
        self, dim: int, *, unit: float = 1.0, origin: float = 0.0, radar: Literal["learned"] | Sequence[float] = "learned"
    ) -> None:
        super().__init__()
        if dim % 2:
            raise ValueError(f"SpectralPosition: dim is {dim}, expected an even number")
        if radar != "learned" and len(radar) != len(RADAR):
            raise ValueError(
                f"SpectralPosition: got {len(radar)} wavelengths of radar, expected one for each of {', '.join(RADAR)}"
            )
        self.dim, self.unit, self.origin = dim, unit, origin
        self.radar: nn.Parameter | tuple[float, ...]
        if radar == "learned":
            self.radar = nn.Parameter(torch.empty(len(RADAR), dim))
            nn.init.normal_(self.radar, std=0.02)
        else:
            self.radar = tuple(float(nm) for nm in radar)

    def forward(self, tokens: Tokens) -> Tensor:
        """Return (1, spectral, 1, 1, dim), zero for tokens that join bands of any kind."""
        if tokens.wavelengths is None:
            return tokens.x.new_zeros(1, 1, 1, 1, self.dim)
        waves = tokens.wavelengths.to(tokens.x.device, torch.float32)
        which = (waves[:, None] == waves.new_tensor(list(RADAR.values()))).float()
        if isinstance(self.radar, tuple):
            waves = torch.where(waves > 0, waves, which @ waves.new_tensor(self.radar))
            table = sincos((waves - self.origin) / self.unit, self.dim)
        else:
            table = sincos((waves - self.origin) / self.unit, self.dim)
            table = torch.where((waves > 0)[:, None], table.to(self.radar.dtype), which.to(self.radar.dtype) @ self.radar)
        return table[None, :, None, None].to(tokens.x.dtype)
