"""One token for each place, from hundreds of bands that convolutions along the spectrum make fewer."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..embed import PatchEmbed
from .bands import check_bands
from .patches import by_wavelength, check_size, for_each_mask, pitch_of
from .tokens import Tokens


class SpectralAdapter(nn.Module):
    """Strided convolutions along the bands of each pixel, with batch norm and ReLU, then the mean over what is left of the bands.

    (batch, bands, height, width) to (batch, channels of the last, height, width). Source: Braham et al. 2024 (SpectralEarth),
    section IV; sizes as in the published program.

    Args:
        channels, kernels, strides: of each convolution, in bands.
        padding: zeros before the first and behind the last band, in each convolution.

    Raises:
        ValueError: if the lists differ in length.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int] = (32, 64, 128),
        kernels: Sequence[int] = (7, 7, 5),
        strides: Sequence[int] = (5, 5, 3),
        padding: int = 1,
    ) -> None:
        super().__init__()
        if not len(channels) == len(kernels) == len(strides) > 0:
            lengths = [len(channels), len(kernels), len(strides)]
            raise ValueError(f"SpectralAdapter: channels, kernels and strides have lengths {lengths}, expected equal ones")
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        before, least = 1, 1
        for width, kernel, stride in zip(channels, kernels, strides, strict=True):
            self.convs.append(nn.Conv2d(before, width, (kernel, 1), stride=(stride, 1), padding=(padding, 0)))
            self.norms.append(nn.BatchNorm2d(width))
            before = width
        for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
            least = max((least - 1) * stride + kernel - 2 * padding, 1)
        self.channels, self.least = before, least

    def forward(self, x: Tensor) -> Tensor:
        """Map the cube.

        Raises:
            ValueError: fewer bands than the kernels need.
        """
        if x.shape[1] < self.least:
            raise ValueError(f"SpectralAdapter: {x.shape[1]} bands, expected at least {self.least}")
        y = x.flatten(2)[:, None]  # pixels are the columns of an image whose rows are the bands
        for conv, norm in zip(self.convs, self.norms, strict=True):
            y = F.relu(norm(conv(y)))
        return torch.unflatten(y.mean(2), 2, x.shape[2:])


class SpectralAdapterEmbed(nn.Module):
    """Patches of what a ``SpectralAdapter`` makes of the bands, times a projection: one token for each place.

    Bands are taken by rising wavelength, in whatever order they come. Source: Braham et al. 2024 (SpectralEarth), section IV.

    Args:
        dim: channels of the tokens.
        patch: pixels on a side of a token.
        adapter: None: one of the published sizes.
    """

    def __init__(self, dim: int, *, patch: int, adapter: SpectralAdapter | None = None) -> None:
        super().__init__()
        self.dim, self.patch = dim, patch
        self.adapter = SpectralAdapter() if adapter is None else adapter
        self.embed = PatchEmbed(self.adapter.channels, dim, patch=(patch, patch))

    def _project(self, x: Tensor, wavelengths: Tensor) -> Tensor:
        y: Tensor = self.embed(self.adapter(x))
        return y

    def forward(self, x: Tensor, wavelengths: Tensor, gsd: float | Tensor, band_mask: Tensor | None = None) -> Tokens:
        """Make tokens: see ``Tokenizer``. In training, batch norm sees images that lack the same bands together.

        Raises:
            ValueError: radar, which has no place in the order, or too few bands.
        """
        check_bands(wavelengths, x.shape[1])
        check_size("SpectralAdapterEmbed", x, self.patch)
        x, wavelengths, band_mask, _ = by_wavelength("SpectralAdapterEmbed", x, wavelengths, band_mask)
        y = for_each_mask(self._project, x, wavelengths, band_mask)
        return Tokens(y[:, None], None, pitch_of(gsd, self.patch, x))
