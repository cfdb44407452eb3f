"""One token for each band and place, by a perceptron that all bands share."""

import torch
from torch import Tensor, nn

from ..linear import Linear
from ..reuse import by_parts
from .bands import check_bands
from .patches import blanked, check_size, cut, pitch_of
from .tokens import Tokens


class BandPerceptronEmbed(nn.Module):
    """Patches of each band through two linear layers with a ReLU between: one spectral token for each band.

    Optical bands share one perceptron, radar polarisations another. A band that an image lacks is marked as not there.

    Source: LESS ViT (arXiv 2605.18541), tied patch embedding.

    Args:
        dim: channels of the tokens.
        patch: pixels on a side of a token.
        ratio: hidden channels for each channel.
    """

    def __init__(self, dim: int, *, patch: int, ratio: int = 2) -> None:
        super().__init__()
        self.dim, self.patch = dim, patch
        self.optical, self.radar = (
            nn.ModuleDict({"fc1": Linear(patch * patch, ratio * dim), "fc2": Linear(ratio * dim, dim)}) for _ in range(2)
        )

    def forward(self, x: Tensor, wavelengths: Tensor, gsd: float | Tensor, band_mask: Tensor | None = None) -> Tokens:
        check_bands(wavelengths, x.shape[1])
        check_size("BandPerceptronEmbed", x, self.patch)
        patches = cut(blanked(x, band_mask), self.patch)
        radar = wavelengths < 0
        if bool(radar.any()) and not bool(radar.all()):
            parts = [(self.optical, (~radar).nonzero()[:, 0]), (self.radar, radar.nonzero()[:, 0])]
            made = [_through(layers, patches.index_select(1, which.to(x.device))) for layers, which in parts]
            order = torch.cat([which for _, which in parts]).argsort().to(x.device)
            y = torch.cat(made, dim=1).index_select(1, order)
        else:
            y = _through(self.radar if bool(radar.any()) else self.optical, patches)
        return Tokens(y, wavelengths.to(x.device), pitch_of(gsd, self.patch, x), band_mask)


def _through(layers: nn.ModuleDict, patches: Tensor) -> Tensor:
    def mix(x: Tensor) -> Tensor:
        y: Tensor = layers["fc2"](layers["fc1"](x, "relu"))
        return y

    return by_parts(mix, patches, layers["fc1"].out_features)  # type: ignore[arg-type] # nn.ModuleDict forgets the layer's type
