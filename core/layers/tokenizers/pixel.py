"""One token for each place, of any bands, by a layer of pixels before that of patches."""

from torch import Tensor, nn
from torch.nn import functional as F

from ..linear import Linear
from .patches import check_size, pitch_of
from .tokens import Tokens
from .wavelength import WavelengthEmbed


class PixelEmbed(nn.Module):
    """Spectra of pixels to channels by weights made from wavelengths, GELU, and a linear layer over the pixels of a patch.

    A linear layer over patches alone tells mixtures of surfaces from a surface of the mean colour only by later layers, and they
    do not see pixels any more. Here what is in a token may be the share of pixels of a kind, as in random convolutional features
    (Rolf et al. 2021), but learned. Nothing of a pixel reaches another token, so that hidden ones stay hidden.

    Args:
        dim: channels of the tokens.
        patch: pixels on a side of a token.
        width: channels of pixels.
    """

    def __init__(self, dim: int, *, patch: int, width: int = 64) -> None:
        super().__init__()
        self.dim, self.patch = dim, patch
        self.pixels = WavelengthEmbed(width, patch=1)
        self.project = Linear(width * patch * patch, dim)
        nn.init.xavier_uniform_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor, wavelengths: Tensor, gsd: float | Tensor, band_mask: Tensor | None = None) -> Tokens:
        check_size("PixelEmbed", x, self.patch)
        y = F.gelu(self.pixels(x, wavelengths, gsd, band_mask).x[:, 0])
        patch = self.patch
        y = y.unflatten(2, (-1, patch)).unflatten(1, (-1, patch)).transpose(2, 3).flatten(3)
        return Tokens(self.project(y)[:, None], None, pitch_of(gsd, patch, x))
