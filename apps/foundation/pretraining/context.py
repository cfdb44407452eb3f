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
        """Return the mean squared error of features, which have a variance of 1 over the channels.

        They are not standardised over an image: what all its places share tells where it lies, and is lost by that.

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
            target = torch.cat([surroundings(features, there_BRK, side) for side in self.sides], dim=1)
        counts = (seen_BRK & there_BRK)[:, None]
        return squared_error(self.project(tokens_BRKD).movedim(-1, 1), target, counts.expand_as(target))


def surroundings(x_BDRK: Tensor, there_BRK: Tensor, side: int) -> Tensor:
    """Average the places that are there over squares of ``side`` x ``side``, cut at the borders; 0 where none is."""
    share = F.avg_pool2d(there_BRK[:, None].to(x_BDRK.dtype), side, stride=1, padding=side // 2)
    total = F.avg_pool2d(x_BDRK.where(there_BRK[:, None], 0.0), side, stride=1, padding=side // 2)
    # Less than half a place's share of a square is a rounded sum of none.
    return total / share.clamp_min(0.5 / side**2)
