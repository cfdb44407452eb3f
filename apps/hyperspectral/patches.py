"""A patch network seen as a dense one."""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .lola_specvit import LolaSpecViT, LolaSpecViTConfig

_TINY = 1e-6


class SlidingPatches(nn.Module):
    """LoLA-SpecViT at every position where its patch fits.

    (batch, features, height, width) to logits (batch, classes, height - patch + 1, width - patch + 1). Each patch is brought to
    zero mean and unit variance per feature, as published. A crop of just the patch's size thus gives one result: that is how
    it trains.
    """

    chunk = 512  # patches in a pass: bounds the memory of a large tile

    def __init__(self, features: int, classes: int, *, config: LolaSpecViTConfig) -> None:
        super().__init__()
        if config.patch % 2 == 0:
            raise ValueError(f"patch is {config.patch}: an even patch has no pixel in its middle")
        self.network = LolaSpecViT(replace(config, bands=features, classes=classes))
        self.patch = config.patch
        self.window = 1
        self.receptive_field = config.patch // 2

    def forward(self, x: Tensor) -> Tensor:
        batch, features, height, width = x.shape
        rows, columns = height - self.patch + 1, width - self.patch + 1
        logits = []
        for row in range(rows):  # unfolding a row of positions at a time: all of them would hold each pixel patch^2 times
            strip = F.unfold(x[:, :, row : row + self.patch], self.patch).transpose(1, 2)
            chunks = torch.split(strip.flatten(0, 1), self.chunk)
            logits += [self.of_patches(torch.unflatten(chunk, 1, (features, self.patch, self.patch))) for chunk in chunks]
        return torch.cat(logits).view(rows, batch, columns, -1).permute(1, 3, 0, 2)

    def of_patches(self, patches: Tensor) -> Tensor:
        """Map patches (number, features, patch, patch) to logits (number, classes)."""
        std, mean = torch.std_mean(patches, (2, 3), correction=0, keepdim=True)
        logits: Tensor = self.network((patches - mean) / (std + _TINY))
        return logits
