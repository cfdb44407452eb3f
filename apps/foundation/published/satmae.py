"""SatMAE and SatMAE++: a token for each group of bands and place.

Source: Cong et al. 2022 (SatMAE), section 3.3; Noman et al. 2024 (SatMAE++), section 3. With one group of three bands, as for
RGB, they are MAE (He et al. 2022). Their classifier is a ``TokenClassifier``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ....core.backbones.token_encoder import TokenEncoder
from ....core.layers.token_position import GridPosition, JoinedPosition, OrderPosition, TablePosition
from ....core.layers.tokenizers import GroupEmbed, Tokens
from ..pretraining.decoder import Decoder
from ..pretraining.multiscale import MultiScaleHead, multiscale_error
from ..pretraining.patch_targets import group_error, normalize_patches
from .parts import PixelHead, Prediction, transformer_blocks

Groups = Sequence[Sequence[float]]


def group_encoder(
    groups: Groups,
    dim: int,
    *,
    patch: int,
    depth: int,
    heads: int,
    mlp_ratio: float = 4.0,
    qkv_bias: bool = True,
    group_dim: int = 256,
    size: int | None = None,
) -> TokenEncoder:
    """Return the encoder.

    Args:
        groups: bands of each: nm, or codes of radar. Bands in none of them are not looked at.
        dim: channels.
        patch: pixels on a side of a token.
        depth, heads, mlp_ratio, qkv_bias: of the blocks.
        group_dim: channels that tell the group, the others the place; 0: all tell the place.
        size: tokens on a side for which positions are learned; None: they are fixed waves, for any size.
    """
    position: nn.Module
    if size is None:
        position = GridPosition(dim - group_dim)
        position = JoinedPosition([position, OrderPosition(group_dim)]) if group_dim else position
    else:
        position = TablePosition(dim - group_dim, size=(1, size, size))
        _start(position, GridPosition(dim - group_dim))
        if group_dim:
            order = TablePosition(group_dim, size=(len(groups), 1, 1))
            _start(order, OrderPosition(group_dim))
            position = JoinedPosition([position, order])
    blocks = transformer_blocks(dim, depth, heads, mlp_ratio, qkv_bias)
    return TokenEncoder(GroupEmbed(dim, patch=patch, groups=groups, others="drop"), position, blocks)


@torch.no_grad()
def _start(table: TablePosition, waves: nn.Module) -> None:
    """Have learned positions start from fixed ones."""
    tokens = Tokens(table.table.new_empty(1, *table.table.shape), None, torch.ones(1))
    table.table.copy_(waves(tokens)[0])


class GroupAutoencoder(nn.Module):
    """The masked auto-encoder of SatMAE, and of SatMAE++ with ``larger``.

    Args:
        encoder: of ``group_encoder``.
        bands: of the image, in their order: nm, or codes of radar; each is in one of the groups of the encoder.
        dim, depth, heads, mlp_ratio: of the decoder.
        group_dim: channels of the decoder's tokens that tell the group; 0: all tell the place.
        larger: at how many sizes beyond its own the image is predicted.
        width: channels for each band between the upsampling blocks.
        normalized: whether the target's patches, of all bands together, are normalised.
        heads_in_band_order: the published program lays what its heads predict side by side and takes it for the bands in the
            order of the image, though it is in that of the groups. A head then learns other bands than those of its group.
    """

    def __init__(
        self,
        encoder: TokenEncoder,
        bands: Sequence[float],
        dim: int,
        *,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        group_dim: int = 128,
        larger: int = 0,
        width: int = 4,
        normalized: bool = False,
        heads_in_band_order: bool = False,
    ) -> None:
        super().__init__()
        assert isinstance(encoder.tokenizer, GroupEmbed)
        groups = encoder.tokenizer.groups
        order = [band for group in groups for band in group]
        if sorted(order) != sorted(bands):
            told = ", ".join(f"{band:g}" for band in bands)
            raise ValueError(
                f"GroupAutoencoder: bands are {told}, expected each of {', '.join(f'{band:g}' for band in order)} once"
            )
        self.bands, self.normalized, self.heads_in_band_order = tuple(bands), normalized, heads_in_band_order
        self.groups = [[self.bands.index(band) for band in group] for group in groups]
        self.encoder = encoder
        position: nn.Module = GridPosition(dim - group_dim)
        position = JoinedPosition([position, OrderPosition(group_dim)]) if group_dim else position
        self.decoder = Decoder(
            encoder.dim, dim, depth=depth, heads=heads, position=position, mlp_ratio=mlp_ratio, prefix="placed"
        )
        self.head = PixelHead(dim, [len(group) for group in groups], patch=encoder.patch)
        self.larger = MultiScaleHead(len(order), len(order) * width, scales=larger) if larger else None
        self._places = [order.index(band) for band in bands]

    def forward(self, x: Tensor, gsd: float | Tensor, hidden: Tensor, larger: Sequence[Tensor] = ()) -> Prediction:
        """Predict images from some of their tokens.

        Args:
            x: (batch, bands, height, width), all of the model's bands in their order, normalised.
            gsd: see ``Tokenizer``.
            hidden: bool (batch, groups, rows, columns), the same number True in each image.
            larger: the true images at the larger sizes.
        """
        tokens = self.encoder.embed(x, torch.tensor(self.bands), gsd)
        y = self.head(self.decoder(self.encoder.encode(tokens, hidden), hidden, tokens).tokens)
        image = y if self.heads_in_band_order else y[:, self._places]
        target = normalize_patches(x, self.encoder.patch, [range(x.shape[1])]) if self.normalized else x
        losses = {"pixels": group_error(image, target, hidden, self.groups)}
        if self.larger is None:
            return Prediction(image, (), losses)
        images = self.larger(image)
        if larger:
            losses["larger"] = multiscale_error(images, larger)
        return Prediction(image, images, losses)
