"""One token for each place and run of adjacent bands."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .bands import check_bands
from .patches import blanked, by_wavelength, check_size, pitch_of
from .tokens import Tokens


class CubeEmbed(nn.Module):
    """Cubes of some adjacent bands and a patch times one projection: bands / ``bands`` spectral tokens.

    Bands are taken by rising wavelength, in whatever order they come. A missing band counts as 0, and a cube of which all are
    missing is marked as not there.

    Source: Hong et al. 2024 (SpectralGPT), section III-A.

    Args:
        dim: channels of the tokens.
        patch: pixels on a side of a cube.
        bands: how many of them a cube joins.
    """

    def __init__(self, dim: int, *, patch: int, bands: int = 3) -> None:
        super().__init__()
        self.dim, self.patch, self.bands = dim, patch, bands
        self.proj = nn.Conv3d(1, dim, (bands, patch, patch), stride=(bands, patch, patch))

    def forward(self, x: Tensor, wavelengths: Tensor, gsd: float | Tensor, band_mask: Tensor | None = None) -> Tokens:
        """Make tokens: see ``Tokenizer``.

        Raises:
            ValueError: radar, which has no place in the order, or bands that do not fill the cubes.
        """
        check_bands(wavelengths, x.shape[1])
        check_size("CubeEmbed", x, self.patch)
        if x.shape[1] % self.bands:
            raise ValueError(f"CubeEmbed: {x.shape[1]} bands are no multiple of the {self.bands} of a cube")
        x, wavelengths, band_mask, order = by_wavelength("CubeEmbed", x, wavelengths, band_mask)
        owner = order.argsort().to(x.device) // self.bands
        present = None if band_mask is None else torch.unflatten(band_mask, 1, (-1, self.bands)).any(2)
        # Cubes neither overlap nor share bands: one 2-D convolution with the cubes in the batch.
        cubes = torch.unflatten(blanked(x, band_mask), 1, (-1, self.bands))
        y = F.conv2d(cubes.flatten(0, 1), self.proj.weight[:, 0], self.proj.bias, stride=self.patch)
        y = torch.unflatten(y, 0, cubes.shape[:2]).movedim(2, -1)
        centres = torch.unflatten(wavelengths, 0, (-1, self.bands)).mean(1)
        return Tokens(y, centres, pitch_of(gsd, self.patch, x), present, owner)
