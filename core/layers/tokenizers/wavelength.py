"""One token for each place, of any bands, by weights that follow from wavelengths."""

import math

import torch
from torch import Tensor, nn

from ...device import without_autocast
from ..linear import Linear
from .bands import RADAR, check_bands
from .patches import check_size, mean_bands, pitch_of
from .sensor_cache import SensorCache
from .tokens import Tokens

# The shortest wave is a 16th of the logarithmic axis long: it tells bands 10 nm apart at 500 nm, but takes those of two
# satellites of one series, 2 nm apart, for nearly the same.
_OCTAVES = 6
FEATURES = 1 + 2 * _OCTAVES + len(RADAR)


def wavelength_features(wavelengths: Tensor) -> Tensor:
    """Describe bands by waves over the logarithm of their wavelength, radar by which polarisation: (bands,) to (bands, 17)."""
    octave = (wavelengths.clamp_min(1).log2() - math.log2(200.0)) / 6.7  # 0..1 from 200 nm to 20 um
    angles = octave[:, None] * (math.pi * 2.0 ** torch.arange(_OCTAVES, device=octave.device, dtype=octave.dtype))
    optical = (wavelengths > 0).to(octave.dtype)[:, None]
    kind = (wavelengths[:, None] == wavelengths.new_tensor(list(RADAR.values()))).to(octave.dtype)
    return torch.cat([optical, optical * angles.sin(), optical * angles.cos(), kind], dim=1)


class WavelengthEmbed(nn.Module):
    """Patches of each band times weights made from its wavelength, the mean over bands: one token for each place.

    The weights of an image's bands together are brought to such a scale that its tokens have unit variance for input of unit
    variance whose bands are correlated by one half. With one band or hundreds, a token then is never much smaller or larger than
    its position: if bands are independent, or all the same, its variance is between 0 and 2.

    After Xiong et al. 2024 (DOFA), section 3, with a perceptron where DOFA has a transformer layer. Its hidden units are sines of
    random mixtures of ``wavelength_features`` (Rahimi and Recht 2007, section 3), so that before training already the weights of
    bands a tenth of their wavelength apart have little in common. Alike, they would give little but the mean of bands.

    Args:
        dim: channels of the tokens.
        patch: pixels on a side of a token.
        hidden: units of the perceptron.
    """

    def __init__(self, dim: int, *, patch: int, hidden: int = 64) -> None:
        super().__init__()
        self.dim, self.patch = dim, patch
        self.w1 = Linear(FEATURES, hidden)
        self.w2 = Linear(hidden, dim * (patch * patch + 1))
        nn.init.normal_(self.w1.weight)
        nn.init.uniform_(self.w1.bias, -math.pi, math.pi)
        nn.init.zeros_(self.w2.bias)  # all bands have it in common
        self._cache = SensorCache()

    def weights(self, wavelengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weight (bands, dim, patch, patch) and bias (bands, dim) of each band, not yet brought to scale."""
        made = self.w2(self.w1(wavelength_features(wavelengths.to(self.w1.weight))).sin())
        made = made.reshape(len(wavelengths), self.dim, -1)
        return torch.unflatten(made[..., 1:], -1, (self.patch, self.patch)) / self.patch, made[..., 0]

    def train(self, mode: bool = True) -> "WavelengthEmbed":
        self._cache.clear()
        super().train(mode)
        return self

    def _make(self, wavelengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return weights, biases, and the products of each band's weights with each other's, (bands, bands)."""
        with without_autocast(self.w1.weight.device):
            weight, bias = self.weights(wavelengths)
            flat = weight.flatten(1)
            return weight, bias, flat @ flat.T / self.dim

    def forward(self, x: Tensor, wavelengths: Tensor, gsd: float | Tensor, band_mask: Tensor | None = None) -> Tokens:
        check_bands(wavelengths, x.shape[1])
        check_size("WavelengthEmbed", x, self.patch)
        weight, bias, products = self._cache.get(self, wavelengths, self._make)
        there = products.new_ones(1, len(products)) if band_mask is None else band_mask.to(products.dtype)
        share = there / there.sum(1, keepdim=True).clamp_min(1)
        # Variance of the mean over bands: half of that of equal bands, half of that of independent ones.
        equal = torch.einsum("ib,bc,ic->i", share, products, share)
        independent = share.square() @ products.diagonal()
        scale = (0.5 * (equal + independent)).clamp_min(1e-12).rsqrt()
        y = mean_bands(x, weight, torch.zeros_like(bias), band_mask)
        y = y * scale.to(y.dtype)[:, None, None, None] + (share @ bias).to(y.dtype)[:, None, None]
        return Tokens(y[:, None], None, pitch_of(gsd, self.patch, x))
