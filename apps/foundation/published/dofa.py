"""DOFA: one token for each place, by weights that a hypernetwork makes from wavelengths, and a vision transformer.

Source: Xiong et al. 2024 (arXiv 2403.15356), section 3. Version 2 has patches of 14 pixels and layer scale.
"""

from ....core.backbones.token_encoder import TokenEncoder
from ....core.layers.token_position import TablePosition
from ....core.layers.tokenizers import HypernetworkEmbed
from .parts import transformer_blocks


def dofa_encoder(
    dim: int,
    *,
    patch: int = 16,
    depth: int,
    heads: int,
    mlp_ratio: float = 4.0,
    size: int,
    code_dim: int = 128,
    layer_scale: float | None = None,
) -> TokenEncoder:
    """Return the encoder.

    Args:
        dim: channels.
        patch: pixels on a side of a token.
        depth, heads, mlp_ratio: of the blocks.
        size: tokens on a side of the images that positions are stored for.
        code_dim: channels of a wavelength.
        layer_scale: initial factor of the branches; None: there is none.
    """
    return TokenEncoder(
        HypernetworkEmbed(dim, patch=patch, code_dim=code_dim),
        TablePosition(dim, size=(1, size, size)),
        transformer_blocks(dim, depth, heads, mlp_ratio, layer_scale=layer_scale),
    )
