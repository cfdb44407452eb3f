"""What stands behind the encoder in masked auto-encoders that are published: decoder and pixel heads of fixed bands.

Shapes: B batch, S spectral tokens, R rows, K columns, D channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from ....core.backbones.token_encoder import Encoded
from ....core.blocks.metaformer import mlp_block
from ....core.layers.global_attention import GlobalAttention
from ....core.layers.linear import Linear
from ....core.layers.token_position import TokenPosition
from ....core.layers.tokenizers import Tokens

LAYER_NORM = partial(nn.LayerNorm, eps=1e-6)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a published auto-encoder predicts of a batch.

    Args:
        image: (batch, bands, height, width).
        larger: the image at twice the size, and so on; empty where a system has none.
        losses: by name, each to be minimised.
    """

    image: Tensor
    larger: tuple[Tensor, ...]
    losses: dict[str, Tensor]


def transformer_blocks(
    dim: int, depth: int, heads: int, mlp_ratio: float, qkv_bias: bool = True, layer_scale: float | None = None
) -> list[nn.Module]:
    """Return blocks of a vision transformer as they are published, with 1e-6 in the norms."""
    attention = partial(GlobalAttention, dim, heads=heads, qkv_bias=qkv_bias)
    return [mlp_block(dim, attention(), mlp_ratio=mlp_ratio, norm=LAYER_NORM, layer_scale=layer_scale) for _ in range(depth)]


class TokenDecoder(nn.Module):
    """Project what was encoded, put one learned vector where tokens were hidden, add positions, run blocks over all, norm.

    Source: He et al. 2022 (MAE), section 3.

    Args:
        inputs: channels of the encoder.
        position: of the decoder's tokens; its ``dim`` is the decoder's.
        blocks: over one sequence, (batch, length, dim).
        prefix: what goes in front: "encoded": the encoder's prefix, projected, plus a vector; "own": that vector alone; None.
    """

    def __init__(
        self, inputs: int, position: nn.Module, blocks: Sequence[nn.Module], *, prefix: Literal["encoded", "own"] | None
    ) -> None:
        super().__init__()
        if prefix not in ("encoded", "own", None):
            raise ValueError(f"TokenDecoder: prefix is {prefix!r}, expected 'encoded', 'own' or None")
        assert isinstance(position, TokenPosition)
        self.dim = position.dim
        self.project = Linear(inputs, self.dim)
        self.mask_token = nn.Parameter(torch.empty(self.dim))
        nn.init.normal_(self.mask_token, std=0.02)
        self.position = position
        self.prefix = nn.Parameter(torch.zeros(self.dim)) if prefix else None
        self.encoded_prefix = prefix == "encoded"
        self.blocks = nn.ModuleList(blocks)
        self.norm = LAYER_NORM(self.dim)

    def forward(self, encoded: Encoded, tokens: Tokens, hidden: Tensor) -> Tensor:
        """Return (B, S, R, K, D).

        Args:
            encoded: with nothing of use where hidden.
            tokens: what was encoded.
            hidden: bool (B, S, R, K).
        """
        x = torch.where(hidden[..., None], self.mask_token.to(encoded.tokens.dtype), self.project(encoded.tokens))
        x = x + self.position(replace(tokens, x=x))
        shape = x.shape
        x = x.flatten(1, 3)
        count = 0
        if self.prefix is not None:
            front = self.prefix.to(x.dtype).expand(len(x), 1, -1)
            front = front + self.project(encoded.prefix) if self.encoded_prefix else front
            count = front.shape[1]
            x = torch.cat([front, x], dim=1)
        for block in self.blocks:
            x = block(x)
        y: Tensor = self.norm(x)[:, count:].reshape(shape)
        return y


class PixelHead(nn.Module):
    """Tokens to the pixels of the bands that they stand for: (B, S, R, K, dim) to (B, bands, height, width).

    Args:
        dim: channels of a token.
        bands: how many each spectral token stands for, one after the other.
        patch: pixels on a side.
        shared: whether all spectral tokens, of as many bands each then, have one projection.
    """

    def __init__(self, dim: int, bands: Sequence[int], *, patch: int, shared: bool = False) -> None:
        super().__init__()
        if shared and len(set(bands)) > 1:
            raise ValueError(f"PixelHead: spectral tokens of {tuple(bands)} bands cannot share a projection")
        self.patch = patch
        self.layers = nn.ModuleList(Linear(dim, n * patch * patch) for n in (bands[:1] if shared else bands))

    def forward(self, x: Tensor) -> Tensor:
        layers = list(self.layers) * x.shape[1] if len(self.layers) == 1 else self.layers
        images = []
        for layer, y in zip(layers, x.unbind(1), strict=True):
            y = torch.unflatten(layer(y), -1, (-1, self.patch, self.patch))
            images.append(y.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3))
        return torch.cat(images, dim=1)
