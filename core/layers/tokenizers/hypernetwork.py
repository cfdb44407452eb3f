"""One token for each place, of any bands, by weights that a transformer layer makes from the wavelengths of all bands."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...device import without_autocast
from ..linear import Linear
from ..sincos import sincos
from .bands import check_bands
from .patches import check_size, for_each_mask, pitch_of
from .sensor_cache import SensorCache
from .tokens import Tokens


class HypernetworkEmbed(nn.Module):
    """Patches of each band times weights made from the wavelengths of all bands, the sum over bands: one token for each place.

    Wavelengths become sines and cosines, pass a residual perceptron, and then, between learned tokens, a transformer layer (norms
    behind the branches), from which linear layers make each band's weights and the bias.

    Source: Xiong et al. 2024 (DOFA), section 3; sizes, and what the paper leaves open, as in the published weights.

    Args:
        dim: channels of the tokens.
        patch: pixels on a side of a token.
        code_dim: channels of a wavelength, a multiple of ``heads``, even.
        heads: of the transformer layer.
        layers: how many of it.
        hidden: units of its perceptron.
        learned: tokens beside those of the bands.
        padding: pixels of zeros in front of the first row and column; the published network has 1, so that its patches lie one
            pixel off, and the last row and column of the image are not seen.
        scale: factor of the weights.
        radar: nm that stand for a radar band of any polarisation: 5.405, the frequency in GHz of C band, taken for micrometres.
    """

    def __init__(
        self,
        dim: int,
        *,
        patch: int,
        code_dim: int = 128,
        heads: int = 4,
        layers: int = 1,
        hidden: int = 2048,
        learned: int = 128,
        padding: int = 1,
        scale: float = 0.01,
        radar: float = 5405.0,
    ) -> None:
        super().__init__()
        if code_dim % 2 or code_dim % heads:
            raise ValueError(f"HypernetworkEmbed: code_dim is {code_dim}, expected an even multiple of heads {heads}")
        if not 0 <= 2 * padding < patch:
            raise ValueError(f"HypernetworkEmbed: padding is {padding}, expected less than half of the patch {patch}")
        self.dim, self.patch, self.padding, self.scale, self.radar = dim, patch, padding, scale, radar
        self.code_dim = code_dim
        self.fc1, self.fc2 = Linear(code_dim, code_dim), Linear(code_dim, code_dim)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(code_dim, heads, hidden, dropout=0.0, activation="gelu", batch_first=True)
            for _ in range(layers)
        )
        self.learned = nn.Parameter(torch.empty(learned, code_dim))
        self.bias_token = nn.Parameter(torch.empty(1, code_dim))
        self.to_weight, self.to_bias = Linear(code_dim, patch * patch * dim), Linear(code_dim, dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.constant_(module.bias, 0.01)
        for token in (self.learned, self.bias_token):
            nn.init.normal_(token, std=0.02)
        self._cache = SensorCache()

    def codes(self, wavelengths: Tensor) -> Tensor:
        """Return what describes the wavelengths, (bands, code_dim)."""
        # In float32, as the published weights have been trained: an angle is up to 20,000, and its rounding shows in the third
        # digit of the sine.
        nanometres = torch.where(wavelengths > 0, wavelengths, self.radar).to(self.fc1.weight.device, torch.float32)
        x = sincos(nanometres, self.code_dim).to(self.fc1.weight.dtype)
        return x + F.relu(self.fc2(F.relu(self.fc1(x))))

    def weights(self, wavelengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weight (bands, dim, patch, patch) of each band and the bias (dim,) of their sum."""
        with without_autocast(self.fc1.weight.device):
            codes = self.codes(wavelengths)
            x = torch.cat([self.learned, codes, self.bias_token])[None]
            for block in self.blocks:
                x = block(x)
            of_bands = x[0, len(self.learned) : -1] + codes
            weight = torch.unflatten(self.to_weight(of_bands), 1, (self.patch, self.patch, self.dim)).movedim(-1, 1)
            return self.scale * weight, self.scale * self.to_bias(x[0, -1])

    def train(self, mode: bool = True) -> "HypernetworkEmbed":
        self._cache.clear()
        super().train(mode)
        return self

    def _project(self, x: Tensor, wavelengths: Tensor) -> Tensor:
        weight, bias = self._cache.get(self, wavelengths, self.weights)
        kernel = weight.transpose(0, 1).to(x.dtype)
        return F.conv2d(x, kernel, bias.to(x.dtype), stride=self.patch, padding=self.padding).movedim(1, -1)

    def forward(self, x: Tensor, wavelengths: Tensor, gsd: float | Tensor, band_mask: Tensor | None = None) -> Tokens:
        check_bands(wavelengths, x.shape[1])
        check_size("HypernetworkEmbed", x, self.patch)
        y = for_each_mask(self._project, x, wavelengths, band_mask)
        return Tokens(y[:, None], None, pitch_of(gsd, self.patch, x))
