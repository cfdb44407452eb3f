"""LESS ViT: attention over bands times attention over places, and its masked auto-encoder.

Source: arXiv 2605.18541, and uiuctml/LESSViT; with ``shared_values`` the model of its predecessor, uiuctml/GeospatialFM.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from ....core.backbones.less_encoder import LessEncoder
from ....core.blocks.metaformer import mlp_block
from ....core.layers.less import GridAttention, GridContext, LessAttention
from ....core.layers.linear import Linear
from ....core.layers.metre_position import MetrePosition, SpectralPosition
from ....core.layers.rotary import GridRotation
from ....core.layers.tokenizers import Tokens
from ....core.layers.tokenizers.band_perceptron import BandPerceptronEmbed

_NORM = partial(nn.LayerNorm, eps=1e-6)
# The published program scales wavelengths, in nm, to 0..1 by these before they turn anything.
SPECTRUM = (447.17, 2365.2)


@dataclass(frozen=True, kw_only=True)
class LessConfig:
    """Sizes and options of a LESS ViT.

    Args:
        patch: pixels on a side of a token.
        dim, depth, heads: of the blocks.
        band_width: channels of a head on the bands; those on the places times these are those of a head.
        mlp_ratio, ranks, qkv_bias, qk_norm, layer_scale, shared_values: as in ``LessAttention`` and ``mlp_block``.
        attention: "product", or to compare with: "sum", or "full" attention between all tokens.
        rotary: base of the periods by which queries and keys turn; None: sines and cosines are added to tokens instead.
        spectrum: wavelengths that turn by -1 and 1.
        scaled: whether what is added for bands counts wavelengths in shares of that spectrum instead of nm: the decoder of the
            predecessor's rotary model.
        radius: metres within which places see each other; None: all do.
        radar: wavelengths in nm that stand for the polarisations VV, VH, HH, HV.
    """

    patch: int = 16
    dim: int = 768
    depth: int = 12
    heads: int = 12
    band_width: int = 4
    mlp_ratio: float = 4.0
    ranks: int = 1
    attention: Literal["product", "sum", "full"] = "product"
    qkv_bias: bool = True
    qk_norm: bool = False
    layer_scale: float | None = None
    shared_values: bool = False
    rotary: float | None = None
    spectrum: tuple[float, float] = SPECTRUM
    scaled: bool = False
    radius: float | None = None
    radar: tuple[float, float, float, float] = (5.55e7, 5.55e7, 5.55e7, 5.55e7)

    def block(self) -> nn.Module:
        """Return one block with random weights."""
        options = {"heads": self.heads, "qkv_bias": self.qkv_bias, "qk_norm": self.qk_norm, "norm": _NORM}
        mixer = (
            GridAttention(self.dim, **options)  # type: ignore[arg-type]
            if self.attention == "full"
            else LessAttention(
                self.dim,
                band_dim=self.band_width * self.heads,
                place_dim=self.dim // (self.band_width * self.heads) * self.heads,
                ranks=self.ranks,
                combine=self.attention,
                shared_values=self.shared_values,
                **options,  # type: ignore[arg-type]
            )
        )
        return mlp_block(self.dim, mixer, mlp_ratio=self.mlp_ratio, norm=_NORM, layer_scale=self.layer_scale)

    def position(self) -> tuple[nn.Module, nn.Module]:
        """Return what is added for places and bands. As published, a step to the next token counts the metres of one pixel."""
        low, high = self.spectrum if self.scaled else (0.0, 1.0)
        return MetrePosition(self.dim, unit=self.patch), SpectralPosition(self.dim, unit=high - low, origin=low, radar=self.radar)

    def rotation(self) -> GridRotation | None:
        """Return what turns queries and keys, if something does."""
        if self.rotary is None:
            return None
        width = self.dim // self.heads
        place, band = width // self.band_width, self.band_width
        place, band = (width // 2, width - width // 2) if self.attention == "full" else (place, band)
        return GridRotation(place, band, base=self.rotary, field=None, spectrum=self.spectrum)


def less_encoder(config: LessConfig) -> LessEncoder:
    """Return an encoder with random weights."""
    place, band = config.position() if config.rotary is None else (None, None)
    return LessEncoder(
        BandPerceptronEmbed(config.dim, patch=config.patch),
        [config.block() for _ in range(config.depth)],
        place=place,
        band=band,
        rotation=config.rotation(),
        radius=config.radius,
        replace_hidden=False,
    )


@dataclass(frozen=True, eq=False)
class LessPrediction:
    """What the auto-encoder makes of a batch.

    Args:
        latent: (batch, 1 + kept bands, 1 + kept places, dim), with class tokens.
        patches: (batch, bands, places, patch^2), predicted.
        target: the same of the image, normalised in each patch if so asked for.
        loss: mean squared error over what was hidden.
    """

    latent: Tensor
    patches: Tensor
    target: Tensor
    loss: Tensor


class LessAutoencoder(nn.Module):
    """Hide bands and places, encode the others, predict all by a decoder of the same kind.

    Args:
        encoder: of ``less_encoder``.
        decoder: sizes and options of the decoder. Its patch is the encoder's.
        normalized: whether the target's patches are normalised, each by itself.
        blind: whether turns stop at the encoder, so that the decoder of a rotary model does not know where tokens are: as
            published.
    """

    def __init__(self, encoder: LessEncoder, decoder: LessConfig, *, normalized: bool = True, blind: bool = False) -> None:
        super().__init__()
        if decoder.patch != encoder.patch:
            raise ValueError(f"LessAutoencoder: patches are {encoder.patch} and {decoder.patch} pixels, expected the same")
        self.encoder, self.normalized, self.radius = encoder, normalized, decoder.radius
        self.project = Linear(encoder.dim, decoder.dim)
        # In place of hidden tokens, of the class token of hidden bands, and of that of hidden places.
        self.mask_token, self.band_token, self.place_token = (nn.Parameter(torch.zeros(decoder.dim)) for _ in range(3))
        for token in (self.mask_token, self.band_token, self.place_token):
            nn.init.normal_(token, std=0.02)
        positions = decoder.position() if decoder.rotary is None else None
        self.place = None if positions is None else positions[0]
        self.band = None if positions is None else positions[1]
        self.rotation = None if blind else decoder.rotation()
        self.blocks = nn.ModuleList(decoder.block() for _ in range(decoder.depth))
        self.norm = _NORM(decoder.dim)
        self.optical, self.radar = (Linear(decoder.dim, decoder.patch**2) for _ in range(2))

    def forward(self, x: Tensor, wavelengths: Tensor, gsd: float | Tensor, bands: Tensor, places: Tensor) -> LessPrediction:
        """Predict images from some bands and places.

        Args:
            x: (batch, bands, height, width).
            wavelengths: (bands,), nm or codes of ``RADAR``.
            gsd: metres from a pixel to the next.
            bands, places: indices of those that are kept, (batch, count) each.
        """
        tokens = self.encoder.embed(x, wavelengths, gsd)
        latent = self.encoder.grid(tokens, (bands, places))
        patches = self.decode(latent, tokens, bands, places)
        target = self.target(x)
        hidden = torch.ones_like(patches[..., 0], dtype=torch.bool)
        index = torch.arange(len(x), device=x.device)
        hidden[index[:, None, None], bands[:, :, None], places[:, None]] = False
        error = (patches - target).square().mean(-1)
        return LessPrediction(latent, patches, target, (error * hidden).sum() / hidden.sum().clamp_min(1))

    def decode(self, latent: Tensor, tokens: Tokens, bands: Tensor, places: Tensor) -> Tensor:
        """Return patches (batch, all bands, all places, patch^2) from what was encoded of some."""
        batch, count, rows, columns = tokens.x.shape[:4]
        y = self.project(latent)
        y = _filled(y, places, rows * columns, 2, self.place_token, self.mask_token)
        y = _filled(y, bands, count, 1, self.band_token, self.mask_token)
        if self.place is not None and self.band is not None:
            shown = replace(tokens, x=y[:, 0, 0, None, None, None].expand(batch, count, rows, columns, -1))
            place, band = self.place(shown).flatten(2, 3), self.band(shown).flatten(2, 3)
            zero = place.new_zeros(1, 1, 1, place.shape[-1])
            place = torch.cat([zero.expand(len(place), -1, -1, -1), place], dim=2)
            y = y + 0.5 * (place + torch.cat([zero, band.to(place.dtype)], dim=1))
        turned = (None, None) if self.rotation is None else self.rotation(tokens)
        near = self.encoder.field(tokens, self.radius)
        context = GridContext(turned[0], turned[1], near)
        for block in self.blocks:
            y = block(y, context)
        y = self.norm(y)[:, 1:, 1:]
        radar = tokens.wavelengths < 0 if tokens.wavelengths is not None else None
        optical: Tensor = self.optical(y)
        if radar is None or not bool(radar.any()):
            return optical
        return torch.where(radar.to(y.device)[:, None, None], self.radar(y), optical)

    def target(self, x: Tensor) -> Tensor:
        """Return what is to be predicted of images: (batch, bands, places, patch^2)."""
        patch = self.encoder.patch
        y = torch.unflatten(torch.unflatten(x, 3, (-1, patch)), 2, (-1, patch)).transpose(3, 4).flatten(4).flatten(2, 3)
        if not self.normalized:
            return y
        variance, mean = torch.var_mean(y, dim=-1, keepdim=True)
        return (y - mean) / (variance + 1e-6).sqrt()


def _filled(x: Tensor, kept: Tensor, length: int, axis: int, first: Tensor, other: Tensor) -> Tensor:
    """Put tokens where they belong along an axis, behind its class token, and learned ones in all other places.

    Args:
        x: (batch, 1 + bands, 1 + places, dim), of which one axis, counted from 1, holds ``kept`` alone.
        kept: indices (batch, count) of those.
        length: of the whole axis.
        axis: which it is.
        first: learned token on the class row or column of the other axis.
        other: learned token elsewhere.
    """
    x = x if axis == 1 else x.transpose(1, 2)
    missing = torch.cat([first[None], other.expand(x.shape[2] - 1, -1)])[None, None]
    whole = missing.expand(len(x), length, -1, -1).to(x.dtype)
    y = torch.cat([x[:, :1], whole.scatter(1, kept[:, :, None, None].expand(-1, -1, *x.shape[2:]), x[:, 1:])], dim=1)
    return y if axis == 1 else y.transpose(1, 2)
