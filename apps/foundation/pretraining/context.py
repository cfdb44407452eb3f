"""A target of pretraining: what an encoder of the whole image knows around each token.

Shapes: B batch, R rows and K columns of tokens, D channels.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....core.backbones.token_encoder import Encoder
from ....core.layers.linear import Linear
from ....core.sensors.batch import SensorBatch
from .targets import patches, squared_error

_LEAST_VARIANCE = 1e-2  # features have a variance of 1 over the channels: what differs less than this between places is noise


class ContextHead(nn.Module):
    """Tell from each token that was seen what a frozen encoder makes of the whole image around it.

    A decoder can fill in hidden pixels from tokens that know no more than their own, so an encoder learns little of what lies
    around. This head looks at one token alone: the encoder has to gather the rest. The frozen encoder is a copy of the one that
    is trained, as it was before training; its features are averaged over squares around the token. Random weights do: their
    features are a basis of what a place shows. Sources: Baevski et al. 2022 (data2vec), section 3.3, whose targets are features
    of the whole input for those who see a part of it; Chiu et al. 2022 (BEST-RQ), section 3.1, whose targets come from random
    projections. The squares are ours.

    Args:
        encoder: that will be trained.
        sides: of the squares, in tokens, odd; 1 is the token itself.
    """

    def __init__(self, encoder: Encoder, sides: Sequence[int]) -> None:
        super().__init__()
        assert isinstance(encoder, nn.Module)
        self.sides = tuple(sides)
        self.teacher = copy.deepcopy(encoder).requires_grad_(requires_grad=False)
        self.project = Linear(encoder.dim, encoder.dim * len(sides))

    def forward(self, tokens_BRKD: Tensor, seen_BRK: Tensor, batch: SensorBatch) -> Tensor:
        """Return the mean squared error, of features with a deviation of 1 over each image.

        Args:
            tokens_BRKD: what the encoder made of what it saw.
            seen_BRK: bool, where it saw something.
            batch: the whole images. Places without a valid pixel are no targets and in no mean.
        """
        patch = batch.values.shape[2] // tokens_BRKD.shape[1]
        there_BRK = patches(batch.valid, patch).any(5).any(3).any(1)
        with torch.no_grad():
            present = batch.valid.flatten(2).any(2)
            features = self.teacher(batch.values, batch.wavelengths, batch.gsd, present).places().float().movedim(-1, 1)
            means = [standardized(*surroundings(features, there_BRK, side)) for side in self.sides]
        counts = (seen_BRK & there_BRK)[:, None]
        target = torch.cat(means, dim=1)
        return squared_error(self.project(tokens_BRKD).movedim(-1, 1), target, counts.expand_as(target))


def surroundings(x_BDRK: Tensor, there_BRK: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Average over squares of ``side`` x ``side`` places, cut at the borders.

    Returns:
        Means of the places that are there, and bool (B, R, K), where a square has one.
    """
    share = F.avg_pool2d(there_BRK[:, None].to(x_BDRK.dtype), side, stride=1, padding=side // 2)
    total = F.avg_pool2d(x_BDRK.where(there_BRK[:, None], 0.0), side, stride=1, padding=side // 2)
    some = share > 0.5 / side**2  # half a place: rounding makes no place of none
    return total / share.where(some, 1.0), some[:, 0]


def standardized(x_BDRK: Tensor, there_BRK: Tensor) -> Tensor:
    """Take off each image's mean and divide by its deviation, of each channel; but what hardly differs stays small."""
    there = there_BRK[:, None]
    count = there.sum((2, 3), keepdim=True).clamp_min(1)
    mean = x_BDRK.where(there, 0.0).sum((2, 3), keepdim=True) / count
    variance = (x_BDRK - mean).where(there, 0.0).square().sum((2, 3), keepdim=True) / count
    return (x_BDRK - mean) * (variance + _LEAST_VARIANCE).rsqrt()
