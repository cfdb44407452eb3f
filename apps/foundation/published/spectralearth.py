"""SpectralEarth's SpecViT: convolutions along the bands, then a vision transformer.

Source: Braham et al. 2024 (arXiv 2408.08447), section IV.
"""

from ....core.backbones.token_encoder import TokenEncoder
from ....core.layers.token_position import TablePosition
from ....core.layers.tokenizers import SpectralAdapterEmbed
from .parts import transformer_blocks


def spectral_encoder(
    dim: int,
    *,
    patch: int = 4,
    depth: int,
    heads: int,
    mlp_ratio: float = 4.0,
    size: int,
    layer_scale: float | None = None,
) -> TokenEncoder:
    """Return the encoder.

    Args:
        dim: channels of the tokens.
        patch: pixels on a side of a token.
        depth, heads, mlp_ratio: of the blocks.
        size: tokens on a side of the images that positions are learned for.
        layer_scale: initial factor of the branches; None: there is none.
    """
    return TokenEncoder(
        SpectralAdapterEmbed(dim, patch=patch),
        TablePosition(dim, size=(1, size, size)),
        transformer_blocks(dim, depth, heads, mlp_ratio, layer_scale=layer_scale),
    )
