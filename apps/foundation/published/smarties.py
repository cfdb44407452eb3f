"""SMARTIES: a token for each place, of any bands by their spectral ranges, and two co-registered sensors with mixed tokens.

Source: Sumbul et al. 2025 (SMARTIES), section 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from ....core.backbones.token_encoder import Encoded, TokenEncoder
from ....core.layers.linear import Linear
from ....core.layers.token_position import GridPosition, TablePosition
from ....core.layers.tokenizers import SMARTIES_RANGES, SpectralRange, SpectralRangeEmbed, Tokens
from ....core.sensors.batch import SensorBatch
from ..pretraining.decoder import Decoder, RangeHead
from ..pretraining.masking import Generators, Masking, hide
from ..pretraining.mixing import check_mixable, draw_swapped, exchange
from ..pretraining.targets import PatchScale, patches, squared_error
from .parts import LAYER_NORM, transformer_blocks

Pooling = Literal["class", "mean", "none"]


def range_encoder(
    dim: int,
    *,
    patch: int,
    size: int,
    depth: int,
    heads: int,
    mlp_ratio: float = 4.0,
    qkv_bias: bool = True,
    ranges: Sequence[SpectralRange] = SMARTIES_RANGES,
    farther_weighs_more: bool = False,
    norm: bool = True,
) -> TokenEncoder:
    """Return the encoder.

    Args:
        dim: channels.
        patch: pixels on a side of a token.
        size: tokens on a side that positions are for; for other sizes they are interpolated.
        depth, heads, mlp_ratio, qkv_bias: of the blocks.
        ranges, farther_weighs_more: see ``SpectralRangeEmbed``.
        norm: whether a norm ends it.
    """
    tokenizer = SpectralRangeEmbed(dim, patch=patch, ranges=ranges, farther_weighs_more=farther_weighs_more)
    blocks = transformer_blocks(dim, depth, heads, mlp_ratio, qkv_bias)
    encoder = TokenEncoder(tokenizer, grid_table(dim, size), blocks)
    if not norm:
        encoder.norm = nn.Identity()
    return encoder


@torch.no_grad()
def grid_table(dim: int, size: int) -> TablePosition:
    """Return positions of (size, size) tokens that start from fixed waves."""
    table = TablePosition(dim, size=(1, size, size))
    table.table.copy_(GridPosition(dim)(Tokens(table.table[None], None, torch.ones(1)))[0])
    return table


@dataclass(frozen=True, eq=False)
class MixedReconstruction:
    """What ``SmartiesAutoencoder`` makes of two co-registered images. Of each field but the loss there are two, one a stream.

    Args:
        loss: to be minimised.
        encoded, decoded: of the encoder and decoder; there is nothing of use where tokens were hidden in ``encoded``.
        images: (batch, bands, height, width), predicted, of the sensor that a place was mixed from.
        targets: like ``images``.
    """

    loss: Tensor
    encoded: tuple[Encoded, Encoded]
    decoded: tuple[Encoded, Encoded]
    images: tuple[Tensor, Tensor]
    targets: tuple[Tensor, Tensor]


class SmartiesAutoencoder(nn.Module):
    """The masked auto-encoder: half of the tokens of two sensors change places, then three quarters are hidden.

    Images have as many bands of one sensor as of the other, repeated if need be (12 of each in the published training).
    ``MaskedAutoencoder`` trains the same encoder on any bands.

    Args:
        encoder: of ``range_encoder``.
        dim, depth, heads, mlp_ratio: of the decoder.
        normalized: whether the target's patches, of all bands together, are normalised.
        one_sided_mixing: as in the published program, which overwrites the first stream before it mixes the second: that one
            stays as it was.
    """

    def __init__(
        self,
        encoder: TokenEncoder,
        dim: int,
        *,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        normalized: bool = False,
        one_sided_mixing: bool = False,
    ) -> None:
        super().__init__()
        assert isinstance(encoder.tokenizer, SpectralRangeEmbed)
        assert isinstance(encoder.position, TablePosition)
        self.encoder, self.normalized, self.one_sided_mixing = encoder, normalized, one_sided_mixing
        position = grid_table(dim, encoder.position.size[1])
        for table in (encoder.position.table, position.table):
            table.requires_grad_(False)  # positions are fixed in pretraining
        self.decoder = Decoder(
            encoder.dim, dim, depth=depth, heads=heads, position=position, mlp_ratio=mlp_ratio, prefix="placed"
        )
        assert self.decoder.prefix is not None
        self.decoder.prefix.requires_grad_(False)  # the place of the class token, as fixed as the others
        own = sum(not r.mixes for r in encoder.tokenizer.ranges)
        self.head = RangeHead(dim, patch=encoder.patch, ranges=own)

    def forward(self, first: SensorBatch, second: SensorBatch, generator: Generators) -> MixedReconstruction:
        """Mix, hide, encode and predict.

        Args:
            first, second: normalised images of the same places.
            generator: of all that is random, on the CPU.
        """
        tokens = self.embed(first, second)
        swapped = draw_swapped(tokens[0], 0.5, generator)
        valid = [patches(b.valid, self.encoder.patch).any(5).any(3).any(1, keepdim=True) for b in (first, second)]
        hidden = hide(valid, Masking(space=0.75), generator)[0]
        return self.reconstruct((first, second), tokens, swapped, hidden[:, 0])

    def embed(self, first: SensorBatch, second: SensorBatch) -> tuple[Tokens, Tokens]:
        """Return the tokens of both, with their positions.

        Raises:
            ValueError: images that do not fit together.
        """
        if first.values.shape[1] != second.values.shape[1]:
            counts = f"{first.values.shape[1]} and {second.values.shape[1]}"
            raise ValueError(f"SmartiesAutoencoder: images have {counts} bands, repeat them to equal numbers")
        one, other = (self.encoder.embed(b.values, b.wavelengths, b.gsd) for b in (first, second))
        check_mixable((one, other))
        return one, other

    def reconstruct(
        self, batches: tuple[SensorBatch, SensorBatch], tokens: tuple[Tokens, Tokens], swapped: Tensor, hidden: Tensor
    ) -> MixedReconstruction:
        """Encode and predict, for places that are chosen already.

        Args:
            batches: the images.
            tokens: of ``embed``.
            swapped: bool (batch, rows, columns), places that change streams.
            hidden: bool (batch, rows, columns), places that are not seen, as many in each image.
        """
        pixels = swapped.repeat_interleave(self.encoder.patch, 1).repeat_interleave(self.encoder.patch, 2)[:, None]

        def mixed(first: Tensor, second: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
            both = exchange(first, second, places.expand(first.shape[: places.ndim]))
            return (both[0], second) if self.one_sided_mixing else both

        assert isinstance(self.encoder.tokenizer, SpectralRangeEmbed)
        streams = mixed(tokens[0].x[:, 0], tokens[1].x[:, 0], swapped)
        targets = mixed(batches[0].values, batches[1].values, pixels)
        valid = mixed(batches[0].valid, batches[1].valid, pixels)
        routes = [self.encoder.tokenizer.routes(batch.wavelengths) for batch in batches]
        sources = mixed(torch.zeros_like(swapped), torch.ones_like(swapped), swapped)
        encoded, decoded, images, losses = [], [], [], []
        for i, x in enumerate(streams):
            there = replace(tokens[i], x=x[:, None])
            encoded.append(self.encoder.encode(there, hidden[:, None]))
            decoded.append(self.decoder(encoded[i], hidden[:, None], there))
            one, other = (self.head(decoded[i].tokens[:, 0], route) for route in routes)
            source = sources[i].repeat_interleave(self.encoder.patch, 1).repeat_interleave(self.encoder.patch, 2)
            images.append(other.where(source[:, None], one))
            unseen = hidden.repeat_interleave(self.encoder.patch, 1).repeat_interleave(self.encoder.patch, 2)[:, None]
            target = targets[i]
            if self.normalized:
                target = PatchScale.of(target, valid[i], self.encoder.patch, "place").apply(target)
            losses.append(squared_error(images[i], target, unseen & valid[i]))
        return MixedReconstruction(
            torch.stack(losses).mean(),
            (encoded[0], encoded[1]),
            (decoded[0], decoded[1]),
            (images[0], images[1]),
            targets,
        )


class SmartiesClassifier(nn.Module):
    """The encoder with a linear classifier, of images of one sensor or of several.

    Args:
        encoder: of ``range_encoder``, with a norm only if ``pooling`` is "class".
        classes: outputs; 0: none.
        pooling: what it sees of an image: "class": the class token; "mean": the norm of the mean of all tokens; "none": all
            tokens, as a map.
        sensors: how many images of one place it takes; their features are put side by side.
    """

    def __init__(self, encoder: TokenEncoder, classes: int, *, pooling: Pooling = "class", sensors: int = 1) -> None:
        super().__init__()
        self.encoder, self.pooling, self.sensors = encoder, pooling, sensors
        self.norm = LAYER_NORM(encoder.dim) if pooling == "mean" else None
        self.head = Linear(sensors * encoder.dim, classes) if classes else nn.Identity()

    def features(self, *images: tuple[Tensor, Tensor]) -> Tensor:
        """Return (batch, sensors * dim), or (batch, sensors * dim, rows, columns) for all tokens.

        Args:
            images: for each sensor, normalised values (batch, bands, height, width) and wavelengths (bands,).

        Raises:
            ValueError: another number of sensors.
        """
        if len(images) != self.sensors:
            raise ValueError(f"SmartiesClassifier: got images of {len(images)} sensors, expected {self.sensors}")
        return torch.cat([self._pooled(self.encoder(x, wavelengths, 1.0)) for x, wavelengths in images], dim=1)

    def _pooled(self, encoded: Encoded) -> Tensor:
        if self.pooling == "class":
            return encoded.prefix[:, 0]
        if self.norm is None:
            return encoded.tokens[:, 0].movedim(-1, 1)
        y: Tensor = self.norm(encoded.tokens.mean((1, 2, 3)))
        return y

    def forward(self, *images: tuple[Tensor, Tensor]) -> Tensor:
        """Return logits, (batch, classes); see ``features``."""
        y: Tensor = self.head(self.features(*images))
        return y
