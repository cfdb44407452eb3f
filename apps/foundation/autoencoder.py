"""Masked auto-encoding of images from any sensor.

Shapes: B batch, C bands, H and W pixels; S spectral tokens, R rows and K columns of tokens.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from ...core.backbones.token_encoder import Encoded, Encoder
from ...core.layers.metre_position import MetrePosition
from ...core.layers.tokenizers import Tokens
from ...core.sensors.batch import SensorBatch
from .decoder import Decoder, WavelengthHead
from .masking import Generators, Masking, hide, hide_bands
from .mixing import check_mixable, draw_swapped, exchange
from .multiscale import MultiScaleHead
from .targets import PatchNorm, PatchScale, absolute_error, patches, shrink, spectral_error, squared_error


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
        for name, weight in (("spectral_sum", self.spectral_sum), ("crossing", self.crossing)):
            if weight < 0:
                raise ValueError(f"{name} is {weight}, allowed are weights from 0")
        if self.crossing and (self.mixing or self.scales):
            raise ValueError(f"crossing {self.crossing} with mixing {self.mixing} and scales {self.scales}: it goes with neither")

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
            units of them. Where nothing was hidden a prediction means little.
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


@dataclass(frozen=True, eq=False)
class _Stream:
    """A sensor on its way: images, tokens, the spectral token of each band (C,), and bands left out of tokens (B, C)."""

    batch: SensorBatch
    tokens: Tokens
    owner: Tensor
    left_out: Tensor

    def valid(self) -> Tensor:
        """Whether a token has a valid pixel, (B, S, R, K)."""
        rows = self.tokens.x.shape[2]
        there = patches(self.batch.valid, self.batch.valid.shape[2] // rows).any(5).any(3)
        spectral = self.tokens.x.shape[1]
        if spectral == 1:
            return there.any(1, keepdim=True)
        own = self.owner == torch.arange(spectral, device=there.device)[:, None]
        return torch.einsum("bcrk,sc->bsrk", there.to(torch.float32), own.to(torch.float32)) > 0

    def counts(self, hidden: Tensor) -> Tensor:
        """Which pixels are to be predicted, (B, C, H, W)."""
        bands = hidden[:, self.owner.clamp_min(0)] | self.left_out[:, :, None, None]
        valid = patches(self.batch.valid, self.batch.valid.shape[2] // hidden.shape[2])
        return (valid & bands[:, :, :, None, :, None]).reshape(self.batch.valid.shape)


class MaskedAutoencoder(nn.Module):
    """Hide tokens, encode the others, predict the hidden pixels (He et al. 2022, section 3).

    The decoder works on places: where there are several spectral tokens, on the mean of those that are seen.

    Args:
        encoder: what is pretrained.
        config: of all else.
    """

    def __init__(self, encoder: Encoder, config: AutoencoderConfig) -> None:
        super().__init__()
        assert isinstance(encoder, nn.Module)
        self.encoder: Encoder = encoder
        self.config = config
        position = MetrePosition(config.dim)
        self.decoder = Decoder(encoder.dim, config.dim, depth=config.depth, heads=config.heads, position=position)
        self.head = WavelengthHead(config.dim, patch=encoder.patch)
        self.multiscale = MultiScaleHead(1, 16, scales=config.scales) if config.scales else None

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
        decoded = self._decode(streams, hidden, generator)
        totals: dict[str, list[Tensor]] = {}
        images, counts = [], []
        for stream, (x, unseen), full in zip(streams, decoded, whole, strict=True):
            counts.append(stream.counts(unseen))
            image, parts = self._predict(stream, x, counts[-1], full)
            images.append(image)
            for name, part in parts.items():
                totals.setdefault(name, []).append(part)
        if config.crossing and len(streams) > 1:
            totals["other sensors"] = self._cross(streams, [x for x, _ in decoded])
        parts = {name: torch.stack(values).mean() for name, values in totals.items()}
        loss = torch.stack(list(parts.values())).sum()
        parts = {name: part.detach() for name, part in parts.items()}
        return Reconstruction(loss, parts, tuple(images), tuple(hidden), tuple(counts), inputs)

    def _stream(self, batch: SensorBatch, generator: Generators) -> _Stream:
        present = batch.valid.flatten(2).any(2)
        left_out = torch.zeros_like(present)
        tokens = self.encoder.embed(batch.values, batch.wavelengths, batch.gsd, present)
        if self.config.bands and tokens.x.shape[1] == 1:
            # A token that joins all bands cannot hide one: it is made without.
            left_out = hide_bands(present, self.config.bands, generator)
            tokens = self.encoder.embed(batch.values, batch.wavelengths, batch.gsd, present & ~left_out)
        owner = _owner(tokens, present.shape[1])
        return _Stream(batch, tokens, owner, left_out | (owner < 0))

    def _decode(self, streams: list[_Stream], hidden: list[Tensor], generator: Generators) -> list[tuple[Tensor, Tensor]]:
        """Return for each sensor features (B, R, K, dim) of places, and which tokens were hidden where they come from."""
        tokens = [stream.tokens for stream in streams]
        if self.config.mixing and len(streams) > 1:
            if len(streams) != 2:
                raise ValueError(f"mixing sensors takes two at a time, these are {len(streams)}")
            check_mixable(tokens)
            swapped = draw_swapped(tokens[0], self.config.mixing, generator)
            mixed = exchange(tokens[0].x[:, 0], tokens[1].x[:, 0], swapped)
            one, other = (self._features(replace(t, x=x[:, None]), h) for t, x, h in zip(tokens, mixed, hidden, strict=True))
            unseen = exchange(hidden[0][:, 0], hidden[1][:, 0], swapped)
            return [(x, h[:, None]) for x, h in zip(exchange(one, other, swapped), unseen, strict=True)]
        return [(self._features(t, h), h) for t, h in zip(tokens, hidden, strict=True)]

    def _features(self, tokens: Tokens, hidden: Tensor) -> Tensor:
        encoded = self.encoder.encode(tokens, hidden)
        if tokens.x.shape[1] > 1:
            seen = ~hidden if tokens.present is None else ~hidden & tokens.present[:, :, None, None]
            share = seen / seen.sum(1, keepdim=True).clamp_min(1)
            x = torch.einsum("bsrkd,bsrk->brkd", encoded.tokens, share.to(encoded.tokens.dtype))[:, None]
            encoded = Encoded(x, encoded.prefix)
            tokens, hidden = Tokens(x, None, tokens.pitch), ~seen.any(1, keepdim=True)
        decoded: Encoded = self.decoder(encoded, hidden, tokens)
        return decoded.tokens[:, 0]

    def _predict(self, stream: _Stream, x: Tensor, counts: Tensor, full: SensorBatch) -> tuple[Tensor, dict[str, Tensor]]:
        batch, config = stream.batch, self.config
        image: Tensor = self.head(x, batch.wavelengths)
        target, scale = batch.values, None
        if config.normalize != "none":
            scale = PatchScale.of(batch.values, batch.valid, self.encoder.patch, config.normalize)
            target = scale.apply(target)
        parts = {"pixels": squared_error(image, target, counts)}
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

    def _cross(self, streams: list[_Stream], decoded: list[Tensor]) -> list[Tensor]:
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


def _owner(tokens: Tokens, bands: int) -> Tensor:
    """Return the index of the spectral token that each band is in, (C,), -1 for none.

    Raises:
        ValueError: if the tokeniser does not tell.
    """
    spectral, device = tokens.x.shape[1], tokens.x.device
    if tokens.owner is not None:
        return tokens.owner.to(device)
    if spectral not in (1, bands):
        raise ValueError(f"{spectral} spectral tokens of {bands} bands: the tokeniser does not tell which has which")
    return torch.zeros(bands, dtype=torch.long, device=device) if spectral == 1 else torch.arange(bands, device=device)
