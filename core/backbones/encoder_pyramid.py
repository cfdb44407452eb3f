"""A pyramid of features from an encoder of one scale, for the heads of segmentation and detection."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers.norm import make_norm
from .token_encoder import Encoder

STRIDES = (4, 8, 16, 32)


class EncoderPyramid(nn.Module):
    """Features at strides 4, 8, 16 and 32 from the last tokens of an encoder, as ``Pyramid`` gives them.

    Source: Li et al. 2022 (ViTDet), section 3, the simple feature pyramid: every scale is made of the same map, finer ones by
    transposed convolutions, coarser ones by strided ones, then a convolution of 1 x 1 and one of 3 x 3, with layer norm.

    Args:
        encoder: a module whose patch is a power of 2.
        wavelengths: (bands,) of the images, nm or codes of ``RADAR``.
        gsd: metres on the ground from a pixel to the next.
        dim: channels at every scale.

    Raises:
        ValueError: for a patch that is no power of 2.
    """

    wavelengths: Tensor

    def __init__(self, encoder: Encoder, *, wavelengths: Sequence[float] | Tensor, gsd: float, dim: int = 256) -> None:
        super().__init__()
        assert isinstance(encoder, nn.Module)
        if encoder.patch & (encoder.patch - 1):
            raise ValueError(f"EncoderPyramid: the encoder's patch is {encoder.patch}, expected a power of 2")
        self.encoder: Encoder = encoder
        self.gsd = gsd
        self.register_buffer("wavelengths", torch.as_tensor(wavelengths, dtype=torch.float32))
        self.dims = (dim,) * len(STRIDES)
        self.scales = nn.ModuleList(_scale(encoder.dim, dim, encoder.patch, stride) for stride in STRIDES)

    def features(self, x: Tensor) -> list[Tensor]:
        """Map (batch, bands, height, width) of any size to (batch, height / s, width / s, dim) for the strides s, rounded up."""
        height, width = x.shape[2:]
        unit = max(STRIDES[-1], self.encoder.patch)
        x = F.pad(x, (0, -width % unit, 0, -height % unit))
        tokens = self.encoder(x, self.wavelengths, self.gsd).places().permute(0, 3, 1, 2)
        found = []
        for stride, scale in zip(STRIDES, self.scales, strict=True):
            y = scale(tokens)[:, :, : -(-height // stride), : -(-width // stride)]
            found.append(y.permute(0, 2, 3, 1))
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, bands, height, width) to the coarsest features."""
        return self.features(x)[-1]


def pyramid(encoder: Encoder, *, wavelengths: Sequence[float] | Tensor, gsd: float, dim: int = 256) -> EncoderPyramid:
    """Return an encoder as the backbone of a network for segmentation: see ``EncoderPyramid``."""
    return EncoderPyramid(encoder, wavelengths=wavelengths, gsd=gsd, dim=dim)


def _scale(inner: int, dim: int, patch: int, stride: int) -> nn.Module:
    steps = round(math.log2(stride / patch))
    layers: list[nn.Module] = []
    for step in range(-steps):  # finer than the tokens
        out = max(inner // 2, dim)
        layers += [nn.ConvTranspose2d(inner, out, 2, stride=2)]
        layers += [_ChannelNorm(out), nn.GELU()] if step < -steps - 1 else []
        inner = out
    for _ in range(steps):  # coarser
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(
        *layers,
        nn.Conv2d(inner, dim, 1, bias=False),
        _ChannelNorm(dim),
        nn.Conv2d(dim, dim, 3, padding=1, bias=False),
        _ChannelNorm(dim),
    )


class _ChannelNorm(nn.Module):
    """Layer norm over the channels of (batch, channels, height, width)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = make_norm("layer", dim)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x.movedim(1, -1))
        return y.movedim(-1, 1)
