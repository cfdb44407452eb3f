"""A sensor's images on their way through an auto-encoder.

Shapes: B batch, C bands, H and W pixels; S spectral tokens, R rows and K columns of tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ....core.backbones.token_encoder import Encoded
from ....core.layers.tokenizers import Tokens
from ....core.sensors.batch import SensorBatch
from .targets import patches


@dataclass(frozen=True, eq=False)
class Stream:
    """A sensor on its way: images, tokens, the spectral token of each band (C,), and bands left out of tokens (B, C)."""

    batch: SensorBatch
    tokens: Tokens
    owner: Tensor
    left_out: Tensor

    def valid(self) -> Tensor:
        """Whether a token has a valid pixel, (B, S, R, K)."""
        rows = self.tokens.x.shape[2]
        there = patches(self.batch.valid, self.batch.valid.shape[2] // rows).any(5).any(3)
        spectral = self.tokens.x.shape[1]
        if spectral == 1:
            return there.any(1, keepdim=True)
        own = self.owner == torch.arange(spectral, device=there.device)[:, None]
        return torch.einsum("bcrk,sc->bsrk", there.to(torch.float32), own.to(torch.float32)) > 0

    def counts(self, hidden: Tensor) -> Tensor:
        """Which pixels are to be predicted, (B, C, H, W)."""
        bands = hidden[:, self.owner.clamp_min(0)] | self.left_out[:, :, None, None]
        valid = patches(self.batch.valid, self.batch.valid.shape[2] // hidden.shape[2])
        return (valid & bands[:, :, :, None, :, None]).reshape(self.batch.valid.shape)


@dataclass(frozen=True, eq=False)
class Seen:
    """What an encoder made of what it saw, a token for each place.

    Args:
        encoded: (B, 1, R, K, D), of several spectral tokens the mean of those that it saw.
        unseen: bool (B, 1, R, K), places of which it saw nothing.
        tokens: that say where these stand.
    """

    encoded: Encoded
    unseen: Tensor
    tokens: Tokens


def spectral_owner(tokens: Tokens, bands: int) -> Tensor:
    """Return the index of the spectral token that each band is in, (C,), -1 for none.

    Raises:
        ValueError: if the tokeniser does not tell.
    """
    spectral, device = tokens.x.shape[1], tokens.x.device
    if tokens.owner is not None:
        return tokens.owner.to(device)
    if spectral not in (1, bands):
        raise ValueError(f"{spectral} spectral tokens of {bands} bands: the tokeniser does not tell which has which")
    return torch.zeros(bands, dtype=torch.long, device=device) if spectral == 1 else torch.arange(bands, device=device)
