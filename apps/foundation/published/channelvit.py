"""ChannelViT: a token for each band and place, positions that all bands share.

Source: Bao et al. 2024 (arXiv 2309.16108), section 3.
"""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from ....core.backbones.token_encoder import TokenEncoder
from ....core.layers.token_position import TablePosition
from ....core.layers.tokenizers import ChannelEmbed, Tokens
from .parts import transformer_blocks


class StretchedPosition(TablePosition):
    """Positions as the published program interpolates them: for a grid a tenth of a token larger than it is.

    The tenth was meant against rounding. The program takes the table as it is only if there are as many tokens as it has places,
    bands counted: for one band at the native size, but also where several bands of smaller images happen to have as many.

    Args:
        dim: channels.
        side: of the table, which is a square.
    """

    def __init__(self, dim: int, *, side: int) -> None:
        super().__init__(dim, size=(1, side, side))
        self.side = side

    def forward(self, tokens: Tokens) -> Tensor:
        """Return (1, spectral or 1, rows, columns, dim)."""
        spectral, rows, columns = tokens.x.shape[1:4]
        if rows == columns and spectral * rows * columns == self.side**2:
            return self.table.reshape(1, spectral, rows, columns, self.dim).to(tokens.x.dtype)
        factors = ((rows + 0.1) / self.side, (columns + 0.1) / self.side)
        maps = F.interpolate(self.table.movedim(-1, 1), scale_factor=factors, mode="bicubic")
        return maps.movedim(1, -1)[None].to(tokens.x.dtype)


def channel_encoder(
    channels: Sequence[float],
    dim: int,
    *,
    patch: int = 16,
    depth: int,
    heads: int,
    mlp_ratio: float = 4.0,
    qkv_bias: bool = True,
    size: int,
    sample: bool = False,
    stretched_positions: bool = False,
) -> TokenEncoder:
    """Return the encoder.

    Args:
        channels: the bands that there are, nm or codes of radar; an image has any of them.
        dim: channels of the tokens.
        patch: pixels on a side of a token.
        depth, heads, mlp_ratio, qkv_bias: of the blocks.
        size: tokens on a side of the images that positions are learned for.
        sample: hierarchical channel sampling in training.
        stretched_positions: interpolate positions as the published program does.
    """
    return TokenEncoder(
        ChannelEmbed(dim, patch=patch, channels=channels, sample=sample),
        StretchedPosition(dim, side=size) if stretched_positions else TablePosition(dim, size=(1, size, size)),
        transformer_blocks(dim, depth, heads, mlp_ratio, qkv_bias),
    )
