"""What the published masked auto-encoders share: their blocks, and pixel heads of fixed bands.

Shapes: B batch, S spectral tokens, R rows, K columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ....core.blocks.metaformer import mlp_block
from ....core.layers.global_attention import GlobalAttention
from ....core.layers.linear import Linear

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
