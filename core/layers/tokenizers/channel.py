"""One token for each place and band."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..linear import Linear
from .bands import check_bands
from .channel_sampling import sample_channels
from .match import check_known, match_bands
from .patches import blanked, check_size, cut, pitch_of
from .tokens import Tokens
from .wavelength import FEATURES, wavelength_features


class ChannelEmbed(nn.Module):
    """Patches of each band times one projection for all, plus a learned vector of the band: a spectral token for each band.

    Source: Bao et al. 2024 (ChannelViT), section 3.1.

    Args:
        dim: channels of the tokens.
        patch: pixels on a side of a token.
        channels: the bands that there are, nm or codes of ``RADAR``, each with a vector of its own; an image has any of them.
            None: the vector follows from the wavelength, and an image has any bands at all.
        tolerance: nm by which a sensor's band may differ from one of ``channels`` and still be that one.
        sample: whether each step of training sees bands that ``sample_channels`` draws, and not all.
    """

    def __init__(
        self, dim: int, *, patch: int, channels: Sequence[float] | None = None, tolerance: float = 20.0, sample: bool = False
    ) -> None:
        super().__init__()
        self.dim, self.patch, self.tolerance, self.sample = dim, patch, tolerance, sample
        self.channels = None if channels is None else tuple(float(w) for w in channels)
        self.proj = Linear(patch * patch, dim)
        if self.channels is None:
            self.of_wavelength = Linear(FEATURES, dim)
        else:
            check_known("ChannelEmbed", self.channels)
            self.table = nn.Parameter(torch.empty(len(self.channels), dim))
            nn.init.trunc_normal_(self.table, std=0.02)

    def vectors(self, wavelengths: Tensor) -> Tensor:
        """Return the vector of each band, (bands, dim).

        Raises:
            ValueError: a band that is none of ``channels``.
        """
        if self.channels is None:
            y: Tensor = self.of_wavelength(wavelength_features(wavelengths.to(self.proj.weight)))
            return y
        where = match_bands("ChannelEmbed", wavelengths, self.channels, tolerance=self.tolerance)
        known = {band: index for index, band in where.items()}
        return self.table[torch.tensor([known[band] for band in range(len(wavelengths))], device=self.table.device)]

    def forward(self, x: Tensor, wavelengths: Tensor, gsd: float | Tensor, band_mask: Tensor | None = None) -> Tokens:
        check_bands(wavelengths, x.shape[1])
        check_size("ChannelEmbed", x, self.patch)
        owner = None
        if self.sample and self.training:
            chosen = sample_channels(x.shape[1])
            owner = torch.full((x.shape[1],), -1, device=x.device)
            owner[chosen] = torch.arange(len(chosen), device=x.device)
            x, wavelengths = x[:, chosen], wavelengths[chosen]
            band_mask = None if band_mask is None else band_mask[:, chosen]
        # For a single channel, a product of matrices takes a third of the time of a convolution on the CPU.
        y: Tensor = self.proj(cut(blanked(x, band_mask), self.patch))
        y = y + self.vectors(wavelengths).to(y.dtype)[:, None, None]
        return Tokens(y, wavelengths, pitch_of(gsd, self.patch, x), band_mask, owner)
