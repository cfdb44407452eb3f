"""A target of pretraining: the image at twice and four times the size."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....core.blocks.upsample import UpsampleBlock
from ....core.layers.conv import Conv
from ....core.layers.linear import Linear


class MultiScaleHead(nn.Module):
    """Predict an image at 2, 4, ... times its size from its prediction at its own.

    Source: Noman et al. 2024 (SatMAE++), section 3.3.

    Args:
        bands: of the image. 1 serves any: each band is then an image of its own.
        dim: channels between.
        scales: how many sizes, each twice the one before.
    """

    def __init__(self, bands: int, dim: int, *, scales: int = 2) -> None:
        super().__init__()
        self.bands = bands
        self.inward = Linear(bands, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.blocks = nn.ModuleList(UpsampleBlock(dim) for _ in range(scales))
        self.outward = nn.ModuleList(Conv(dim, bands) for _ in range(scales))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map (batch, bands, height, width) to images of the same bands, from small to large.

        Raises:
            ValueError: for another number of bands than the head's, unless that is 1.
        """
        batch, bands = image.shape[:2]
        if self.bands not in (1, bands):
            raise ValueError(f"MultiScaleHead: the image has {bands} bands, expected {self.bands}")
        x = image.reshape(-1, self.bands, *image.shape[2:]).movedim(1, -1)
        x = self.norm(F.gelu(self.inward(x)))
        images = []
        for block, outward in zip(self.blocks, self.outward, strict=True):
            x = block(x)
            y = outward(x).movedim(-1, 1)
            images.append(y.reshape(batch, bands, *y.shape[2:]))
        return tuple(images)


def multiscale_error(images: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Return the mean absolute error of each size, and of these the mean.

    Args:
        images: of ``MultiScaleHead``.
        targets: the true images of those sizes.
    """
    return torch.stack([(image - target).abs().mean() for image, target in zip(images, targets, strict=True)]).mean()
