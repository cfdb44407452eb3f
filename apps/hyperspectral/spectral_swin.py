"""Spectral Swin, the default: every pixel of a tile in one pass, from a few labelled pixels.

A 3-D convolution front end reads the spectrum of each pixel, then shifted-window attention (Liu et al. 2021, section 3.2) with
SwiGLU (Shazeer 2020) looks at its surroundings, at full resolution throughout.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from ...core.backbones.dense import DenseBackbone, window_blocks
from ...core.layers.embed import SpectralEmbed


@dataclass(frozen=True, kw_only=True)
class SpectralSwinConfig:
    """Settings of ``SpectralSwin``.

    Args:
        dim: channels of the tokens.
        depth: blocks of window attention; every second one is shifted.
        heads: attention heads.
        window: pixels on a side of the windows.
        mlp_ratio: hidden channels of the SwiGLU for each channel.
        channels: of each spectral convolution.
        kernels: of the spectral convolutions, in bands.
        strides: of the spectral convolutions, in bands.
        spatial: of the spectral convolutions, in pixels; 1 leaves the surroundings to attention.
        drop_path: probability to skip a branch in training. High values make the pixel's own spectrum suffice: with few labels
            it is too easy to learn surroundings by heart.
        dropout: of the features before the classifier.
    """

    dim: int = 64
    depth: int = 2
    heads: int = 4
    window: int = 4
    mlp_ratio: float = 2.0
    channels: tuple[int, ...] = (16, 32)
    kernels: tuple[int, ...] = (7, 5)
    strides: tuple[int, ...] = (4, 3)
    spatial: tuple[int, ...] = (1, 1)
    drop_path: float = 0.1
    dropout: float = 0.1


class SpectralSwin(nn.Module):
    """(batch, features, height, width) to logits (batch, classes, height, width)."""

    def __init__(self, features: int, classes: int, *, config: SpectralSwinConfig) -> None:
        super().__init__()
        embed = SpectralEmbed(
            features,
            config.dim,
            channels=config.channels,
            kernels=config.kernels,
            strides=config.strides,
            spatial=config.spatial,
        )
        blocks = window_blocks(
            config.dim,
            config.depth,
            heads=config.heads,
            window=config.window,
            mlp_ratio=config.mlp_ratio,
            drop_path=config.drop_path,
        )
        self.backbone = DenseBackbone(embed, blocks, dim=config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.dim, classes)
        self.window = self.backbone.window
        self.receptive_field = self.backbone.receptive_field

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.backbone(x)))
        return logits.permute(0, 3, 1, 2)
