"""One token for each place, of any bands, by weights that follow from wavelengths."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..linear import Linear
from .bands import RADAR, check_bands
from .tokens import Tokens

_OCTAVES = 8


def wavelength_features(wavelengths: Tensor) -> Tensor:
    """Describe bands by waves over the logarithm of their wavelength, radar by which polarisation: (bands,) to (bands, 21)."""
    octave = (wavelengths.clamp_min(1).log2() - math.log2(200.0)) / 6.7  # 0..1 from 200 nm to 20 um
    angles = octave[:, None] * (math.pi * 2.0 ** torch.arange(_OCTAVES, device=octave.device, dtype=octave.dtype))
    optical = (wavelengths > 0).to(octave.dtype)[:, None]
    kind = (wavelengths[:, None] == wavelengths.new_tensor(list(RADAR.values()))).to(octave.dtype)
    return torch.cat([optical, optical * angles.sin(), optical * angles.cos(), kind], dim=1)


class WavelengthEmbed(nn.Module):
    """Patches of each band times weights made from its wavelength, the mean over bands: one token for each place.

    After Xiong et al. 2024 (DOFA), section 3, with a perceptron where DOFA has a transformer layer.

    Args:
        dim: channels of the tokens.
        patch: pixels on a side of a token.
        hidden: units of the perceptron.
    """

    def __init__(self, dim: int, *, patch: int, hidden: int = 64) -> None:
        super().__init__()
        self.dim, self.patch = dim, patch
        self.fc1 = Linear(1 + 2 * _OCTAVES + len(RADAR), hidden)
        self.fc2 = Linear(hidden, dim * (patch * patch + 1))

    def weights(self, wavelengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weight (bands, dim, patch, patch) and bias (bands, dim) of each band."""
        made = self.fc2(F.gelu(self.fc1(wavelength_features(wavelengths.to(self.fc1.weight.dtype)))))
        made = made.reshape(len(wavelengths), self.dim, -1)
        return torch.unflatten(made[..., 1:], -1, (self.patch, self.patch)) / self.patch, made[..., 0]

    def forward(self, x: Tensor, wavelengths: Tensor, gsd: float | Tensor, band_mask: Tensor | None = None) -> Tokens:
        check_bands(wavelengths, x.shape[1])
        if x.shape[2] % self.patch or x.shape[3] % self.patch:
            raise ValueError(f"WavelengthEmbed: size {tuple(x.shape[2:])} is not a multiple of the patch {self.patch}")
        weight, bias = self.weights(wavelengths)
        there = x.new_ones(x.shape[:2]) if band_mask is None else band_mask.to(x.dtype)
        share = there / there.sum(1, keepdim=True).clamp_min(1)
        y = F.conv2d(x * share[..., None, None], weight.transpose(0, 1).to(x.dtype), stride=self.patch)
        y = y.movedim(1, -1) + (share @ bias.to(x.dtype))[:, None, None]
        pitch = torch.as_tensor(gsd, dtype=torch.float32, device=x.device).expand(len(x)) * self.patch
        return Tokens(y[:, None], None, pitch)
