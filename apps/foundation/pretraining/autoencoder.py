"""Masked auto-encoding of images from any sensor.

Shapes: B batch, C bands, H and W pixels; S spectral tokens, R rows and K columns of tokens.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from ....core.backbones.token_encoder import Encoded, Encoder
from ....core.layers.metre_position import MetrePosition
from ....core.layers.tokenizers import Tokens
from ....core.sensors.batch import SensorBatch
from .context import ContextHead
from .decoder import Decoder, WavelengthHead
from .masking import Generators, Masking, hide, hide_bands
from .mixing import check_mixable, draw_swapped, exchange
from .multiscale import MultiScaleHead
from .streams import Seen, Stream, spectral_owner
from .targets import PatchNorm, PatchScale, absolute_error, shrink, spectral_error, squared_error


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Settings of masking, targets and decoder.

    Args:
        space, bands, spectral, shared: see ``Masking``.
        mixing: share of the tokens that the streams of two co-registered sensors exchange (0.5 in SMARTIES).
        normalize: whether pixels are predicted as they are ("none"), or less the mean and divided by the deviation of their
            patch, of each band ("band") or of all bands together ("place").
        scales: how many sizes more are predicted, each twice the one before (2 in SatMAE++). The encoder gets images reduced by
            the largest factor.
        spectral_sum: weight of the error of sums over the bands (1 in SpectralGPT).
        crossing: weight of the error of what co-registered sensors show, each predicted from every other alone, at all places.
            What a token holds then must tell what other sensors see there.
        pixels: weight of the error of hidden pixels. 0: nothing is reconstructed, there is no decoder, and ``context`` trains.
        context: weight of the error of what the encoder, as it was before training, makes of the whole image around each token
            that is seen: see ``ContextHead``.
        sides: of the squares that this is the mean over, in tokens, odd.
        dim, depth, heads: of the decoder.

    Raises:
        ValueError: a value that is not allowed.
    """

    space: float = 0.75
    bands: float = 0.0
    spectral: Literal["joint", "independent"] = "joint"
    shared: bool = True
    mixing: float = 0.0
    normalize: PatchNorm = "none"
    scales: int = 0
    spectral_sum: float = 0.0
    crossing: float = 0.0
    pixels: float = 1.0
    context: float = 0.0
    sides: tuple[int, ...] = (1, 9)
    dim: int = 128
    depth: int = 2
    heads: int = 4

    def __post_init__(self) -> None:
        self.masking  # noqa: B018 - checks its values
        if not 0 <= self.mixing < 1:
            raise ValueError(f"mixing is {self.mixing}, allowed are 0 to below 1")
        if self.normalize not in ("none", "band", "place"):
            raise ValueError(f"normalize is {self.normalize!r}, allowed are 'none', 'band' and 'place'")
        if not 0 <= self.scales <= 3:
            raise ValueError(f"scales is {self.scales}, allowed are 0 to 3")
        for name in ("pixels", "spectral_sum", "crossing", "context"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, allowed are weights from 0")
        if self.crossing and (self.mixing or self.scales):
            raise ValueError(f"crossing {self.crossing} with mixing {self.mixing} and scales {self.scales}: it goes with neither")
        object.__setattr__(self, "sides", tuple(self.sides))  # files have lists
        if not self.sides or any(side < 1 or side % 2 == 0 for side in self.sides):
            raise ValueError(f"sides are {self.sides}, allowed are odd numbers, one at least")
        if self.context and self.mixing:
            raise ValueError(f"context {self.context} with mixing {self.mixing}: tokens of two sensors have no image in common")
        if not self.pixels and (not self.context or self.scales or self.spectral_sum or self.crossing):
            raise ValueError(
                f"pixels 0 with context {self.context}, scales {self.scales}, spectral_sum {self.spectral_sum}, crossing"
                f" {self.crossing}: without pixels allowed is context alone, above 0"
            )

    @property
    def masking(self) -> Masking:
        """What is hidden."""
        return Masking(space=self.space, bands=self.bands, spectral=self.spectral, shared=self.shared)


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """What an auto-encoder makes of a batch. Of each field but ``loss`` and ``parts`` there is one for each sensor.

    Args:
        loss: a number, to be minimised.
        parts: the terms of the loss, by name.
        images: (B, C, H, W) as predicted, without gradients, on the scale of ``inputs``: ``Normalization.undo`` makes physical
            units of them. Where nothing was hidden a prediction means little. None at all if pixels weigh nothing.
        hidden: bool (B, S, R, K), tokens that the encoder has not seen.
        counts: bool (B, C, H, W), pixels that had to be predicted: hidden ones which are no missing data.
        inputs: the true images, as the encoder gets them where nothing is hidden.
    """

    loss: Tensor
    parts: dict[str, Tensor]
    images: tuple[Tensor, ...]
    hidden: tuple[Tensor, ...]
    counts: tuple[Tensor, ...]
    inputs: tuple[SensorBatch, ...]


class MaskedAutoencoder(nn.Module):
    """Hide tokens, encode the others, predict the hidden pixels (He et al. 2022, section 3).

    The decoder works on places: where there are several spectral tokens, on the mean of those that are seen. So does the head for
    what surrounds a token.

    Args:
        encoder: what is pretrained.
        config: of all else.
    """

    def __init__(self, encoder: Encoder, config: AutoencoderConfig) -> None:
        super().__init__()
        assert isinstance(encoder, nn.Module)
        self.encoder: Encoder = encoder
        self.config = config
        if config.pixels:
            position = MetrePosition(config.dim)
            self.decoder = Decoder(encoder.dim, config.dim, depth=config.depth, heads=config.heads, position=position)
            self.head = WavelengthHead(config.dim, patch=encoder.patch)
        self.multiscale = MultiScaleHead(1, 16, scales=config.scales) if config.scales else None
        self.context = ContextHead(encoder, config.sides) if config.context else None

    def forward(self, batches: tuple[SensorBatch, ...], generator: Generators) -> Reconstruction:
        """Hide, encode and predict.

        Args:
            batches: normalised images, of one sensor, or of several sensors of the same places.
            generator: of all that is random, on the CPU; or one for each image, so that what is drawn for an image does not
                depend on the batch that it is in.

        Raises:
            ValueError: images of several sensors that do not fit together, or a size that the tokeniser does not take.
        """
        config = self.config
        if len({len(batch.values) for batch in batches}) != 1:
            told = ", ".join(f"{len(batch.values)} of {batch.sensor}" for batch in batches)
            raise ValueError(f"co-registered images must be as many of each sensor, these are {told or 'none'}")
        whole = tuple(replace(b, values=b.values.masked_fill(~b.valid, 0.0)) for b in batches)
        inputs = tuple(shrink(b, 2**config.scales) for b in whole) if config.scales else whole
        streams = [self._stream(batch, generator) for batch in inputs]
        hidden = hide([stream.valid() for stream in streams], config.masking, generator)
        tokens, sources, swapped = [stream.tokens for stream in streams], hidden, None
        if config.mixing and len(streams) > 1:
            swapped = self._swapped(tokens, generator)
            tokens, sources = self._exchanged(tokens, hidden, swapped)
        seen = [self._encode(t, h) for t, h in zip(tokens, hidden, strict=True)]
        counts = tuple(stream.counts(h) for stream, h in zip(streams, sources, strict=True))
        images, totals = self._reconstruct(streams, seen, swapped, counts, whole) if config.pixels else ((), {})
        if self.context is not None:
            errors = [
                self.context(one.encoded.tokens[:, 0], ~one.unseen[:, 0], stream.batch)
                for one, stream in zip(seen, streams, strict=True)
            ]
            totals["context"] = [config.context * error for error in errors]
        parts = {name: torch.stack(values).mean() for name, values in totals.items()}
        loss = torch.stack(list(parts.values())).sum()
        parts = {name: part.detach() for name, part in parts.items()}
        return Reconstruction(loss, parts, images, tuple(hidden), counts, inputs)

    def _stream(self, batch: SensorBatch, generator: Generators) -> Stream:
        present = batch.valid.flatten(2).any(2)
        left_out = torch.zeros_like(present)
        tokens = self.encoder.embed(batch.values, batch.wavelengths, batch.gsd, present)
        if self.config.bands and tokens.x.shape[1] == 1:
            # A token that joins all bands cannot hide one: it is made without.
            left_out = hide_bands(present, self.config.bands, generator)
            tokens = self.encoder.embed(batch.values, batch.wavelengths, batch.gsd, present & ~left_out)
        owner = spectral_owner(tokens, present.shape[1])
        return Stream(batch, tokens, owner, left_out | (owner < 0))

    def _swapped(self, tokens: list[Tokens], generator: Generators) -> Tensor:
        """Draw the places whose tokens two sensors exchange.

        Raises:
            ValueError: another number of sensors, or tokens that do not lie on each other.
        """
        if len(tokens) != 2:
            raise ValueError(f"mixing sensors takes two at a time, these are {len(tokens)}")
        check_mixable(tokens)
        return draw_swapped(tokens[0], self.config.mixing, generator)

    def _exchanged(self, tokens: list[Tokens], hidden: list[Tensor], swapped: Tensor) -> tuple[list[Tokens], list[Tensor]]:
        """Return the tokens of two sensors, exchanged, and which were hidden where the features of each will come from."""
        mixed = exchange(tokens[0].x[:, 0], tokens[1].x[:, 0], swapped)
        sources = exchange(hidden[0][:, 0], hidden[1][:, 0], swapped)
        return [replace(t, x=x[:, None]) for t, x in zip(tokens, mixed, strict=True)], [h[:, None] for h in sources]

    def _encode(self, tokens: Tokens, hidden: Tensor) -> Seen:
        encoded = self.encoder.encode(tokens, hidden)
        if tokens.x.shape[1] == 1:
            return Seen(encoded, hidden, tokens)
        seen = ~hidden if tokens.present is None else ~hidden & tokens.present[:, :, None, None]
        share = seen / seen.sum(1, keepdim=True).clamp_min(1)
        x = torch.einsum("bsrkd,bsrk->brkd", encoded.tokens, share.to(encoded.tokens.dtype))[:, None]
        return Seen(Encoded(x, encoded.prefix), ~seen.any(1, keepdim=True), Tokens(x, None, tokens.pitch))

    def _reconstruct(
        self,
        streams: list[Stream],
        seen: list[Seen],
        swapped: Tensor | None,
        counts: tuple[Tensor, ...],
        whole: tuple[SensorBatch, ...],
    ) -> tuple[tuple[Tensor, ...], dict[str, list[Tensor]]]:
        """Return the images as predicted, and the errors by name."""
        decoded = [self._decode(one) for one in seen]
        if swapped is not None:
            decoded = list(exchange(decoded[0], decoded[1], swapped))
        images: list[Tensor] = []
        totals: dict[str, list[Tensor]] = {}
        for stream, x, counted, full in zip(streams, decoded, counts, whole, strict=True):
            image, parts = self._predict(stream, x, counted, full)
            images.append(image)
            for name, part in parts.items():
                totals.setdefault(name, []).append(part)
        if self.config.crossing and len(streams) > 1:
            totals["other sensors"] = self._cross(streams, decoded)
        return tuple(images), totals

    def _decode(self, seen: Seen) -> Tensor:
        """Return features (B, R, K, dim) of all places."""
        decoded: Encoded = self.decoder(seen.encoded, seen.unseen, seen.tokens)
        return decoded.tokens[:, 0]

    def _predict(self, stream: Stream, x: Tensor, counts: Tensor, full: SensorBatch) -> tuple[Tensor, dict[str, Tensor]]:
        batch, config = stream.batch, self.config
        image: Tensor = self.head(x, batch.wavelengths)
        target, scale = batch.values, None
        if config.normalize != "none":
            scale = PatchScale.of(batch.values, batch.valid, self.encoder.patch, config.normalize)
            target = scale.apply(target)
        parts = {"pixels": config.pixels * squared_error(image, target, counts)}
        plain = image.float() if scale is None else scale.undo(image.float())
        if config.spectral_sum:
            parts["spectral sum"] = config.spectral_sum * spectral_error(plain, batch.values, batch.valid)
        if self.multiscale is not None:
            errors = []
            for i, larger in enumerate(self.multiscale(plain), 1):
                same = full if i == config.scales else shrink(full, 2 ** (config.scales - i))
                errors.append(absolute_error(larger, same.values, same.valid))
            parts["larger sizes"] = torch.stack(errors).mean()
        return plain.detach(), parts

    def _cross(self, streams: list[Stream], decoded: list[Tensor]) -> list[Tensor]:
        """Return the weighted errors of each stream predicted from every other.

        Raises:
            ValueError: images of other numbers of tokens.
        """
        errors = []
        for i, x in enumerate(decoded):
            for j, stream in enumerate(streams):
                if i == j:
                    continue
                target, valid = stream.batch.values, stream.batch.valid
                if x.shape[1:3] != stream.tokens.x.shape[2:4]:
                    sizes = " and ".join("x".join(map(str, size)) for size in (x.shape[1:3], stream.tokens.x.shape[2:4]))
                    raise ValueError(f"sensors of {sizes} tokens cannot be predicted from each other; set crossing to 0")
                if self.config.normalize != "none":
                    target = PatchScale.of(target, valid, self.encoder.patch, self.config.normalize).apply(target)
                error = squared_error(self.head(x, stream.batch.wavelengths), target, valid)
                errors.append(self.config.crossing * error)
        return errors
