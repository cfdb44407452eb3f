"""Which encoder, and how it is built."""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, get_args

from torch import nn

from ..backbones.grid_encoder import GridEncoder
from ..backbones.less_encoder import LessEncoder
from ..backbones.token_encoder import Encoder, TokenEncoder
from ..blocks.metaformer import mlp_block
from ..layers.global_attention import GlobalAttention
from ..layers.less import LessAttention
from ..layers.metre_position import MetrePosition, SpectralPosition
from ..layers.mixers import MIXERS
from ..layers.rotary import GridRotation
from ..layers.token_position import SumPosition
from ..layers.tokenizers import (
    ChannelEmbed,
    CubeEmbed,
    GroupEmbed,
    HypernetworkEmbed,
    SpectralAdapterEmbed,
    SpectralRangeEmbed,
    Tokenizer,
    WavelengthEmbed,
)
from ..layers.tokenizers.band_perceptron import BandPerceptronEmbed

TokenizerName = Literal["wavelength", "hypernetwork", "range", "adapter", "group", "cube", "channel", "perceptron"]
# These join all bands of a place in one token; the others have an axis of spectral tokens.
_JOINED = ("wavelength", "hypernetwork", "range", "adapter")
_BY_BAND = ("channel", "perceptron")

_norm = partial(nn.LayerNorm, eps=1e-6)


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Settings of an encoder.

    Args:
        tokenizer: how images become tokens. One for each place: "wavelength", weights made from wavelengths; "hypernetwork",
            DOFA's; "range", SMARTIES' projections of spectral ranges; "adapter", SpectralEarth's convolutions over the spectrum.
            Several for each place: "group", SatMAE's, of ``groups``; "cube", SpectralGPT's; "channel", ChannelViT's, and
            "perceptron", LESS ViT's, of each band.
        mixer: how tokens see each other: "joint", all in one sequence; "less", bands and places, for tokens of each band; or one
            of the core's mixers on the grid, such as "window", "shifted_window", "scan", "vssd", "neighborhood". Several names
            with commas take turns.
        dim: channels of the tokens.
        depth: blocks.
        heads: of attention.
        patch: pixels on a side of a token.
        mlp_ratio: hidden channels of the MLP for each channel.
        registers: learned tokens beside the class token that have no place (Darcet et al. 2024), for "joint".
        groups: of the tokeniser "group": for each, wavelengths in nm or codes of radar.
        unit: metres on the ground that count as a step of positions.
        position: weight of the positions that are added: below 1, tokens are more of what they show than of where they stand.
        logarithm: of reflectance r, log(r + this) is standardised and goes in; 0: r itself. See ``Normalization``.
        rotary: for "less": queries and keys turn by metres and wavelength, instead of positions that are added.
        radius: for "less": metres within which places see each other. None: all do.
    """

    tokenizer: TokenizerName = "wavelength"
    mixer: str = "joint"
    dim: int = 192
    depth: int = 6
    heads: int = 6
    patch: int = 8
    mlp_ratio: float = 4.0
    registers: int = 0
    groups: tuple[tuple[float, ...], ...] = ()
    unit: float = 10.0
    position: float = 1.0
    logarithm: float = 0.0
    rotary: bool = False
    radius: float | None = None

    def __post_init__(self) -> None:
        # Files have lists where this has tuples.
        object.__setattr__(self, "groups", tuple(tuple(group) for group in self.groups))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in YAML."""
        return asdict(self)


def build_encoder(config: EncoderConfig) -> Encoder:
    """Return an encoder with random weights.

    Raises:
        ValueError: an unknown name, or settings that do not go together.
    """
    _check(config)
    tokenizer = _tokenizer(config)
    place = MetrePosition(config.dim, unit=config.unit, weight=config.position)
    if config.mixer == "less":
        return _less(config, tokenizer, place)
    position: nn.Module = place
    if config.tokenizer not in _JOINED:
        # In steps of 10 nm, so that the waves tell narrow bands apart and do not turn too fast between wide ones.
        position = SumPosition([place, SpectralPosition(config.dim, unit=10.0)])
    if config.mixer == "joint":
        joint = [_block(config, GlobalAttention(config.dim, heads=config.heads)) for _ in range(config.depth)]
        return TokenEncoder(tokenizer, position, joint, prefix=1 + config.registers)
    axes = 2 if config.tokenizer in _JOINED else 3
    names = [name.strip() for name in config.mixer.split(",")]
    blocks = [
        _block(config, MIXERS[names[i % len(names)]](config.dim, heads=config.heads, axes=axes, stage=0, index=i), axes)
        for i in range(config.depth)
    ]
    return GridEncoder(tokenizer, position, blocks, axes=axes)


def _check(config: EncoderConfig) -> None:
    if config.tokenizer not in get_args(TokenizerName):
        raise ValueError(f"tokenizer is {config.tokenizer!r}, allowed are {', '.join(get_args(TokenizerName))}")
    if (config.tokenizer == "group") != bool(config.groups):
        raise ValueError(f"groups are {config.groups} and tokenizer {config.tokenizer!r}: only 'group' has some, and needs them")
    if config.registers and config.mixer != "joint":
        raise ValueError(f"registers: {config.registers} with mixer {config.mixer!r}, allowed are some with 'joint' only")
    if config.mixer == "less" and config.tokenizer not in _BY_BAND:
        raise ValueError(
            f"mixer 'less' with tokenizer {config.tokenizer!r}, allowed are those of each band: {', '.join(_BY_BAND)}"
        )
    if config.mixer != "less" and (config.rotary or config.radius is not None):
        raise ValueError(f"rotary and radius belong to mixer 'less', got mixer {config.mixer!r}")
    if config.mixer not in ("joint", "less"):
        for name in config.mixer.split(","):
            if name.strip() not in MIXERS:
                raise ValueError(f"unknown mixer {name.strip()!r}, allowed are joint, less, {', '.join(MIXERS)}")


def _tokenizer(config: EncoderConfig) -> Tokenizer:
    dim, patch = config.dim, config.patch
    if config.tokenizer == "group":
        return GroupEmbed(dim, patch=patch, groups=config.groups)
    kinds: dict[str, Any] = {
        "wavelength": WavelengthEmbed,
        "hypernetwork": HypernetworkEmbed,
        "range": SpectralRangeEmbed,
        "adapter": SpectralAdapterEmbed,
        "cube": CubeEmbed,
        "channel": ChannelEmbed,
        "perceptron": BandPerceptronEmbed,
    }
    made: Tokenizer = kinds[config.tokenizer](dim, patch=patch)
    return made


def _block(config: EncoderConfig, mixer: nn.Module, axes: int = 2) -> nn.Module:
    return mlp_block(config.dim, mixer, axes=axes, mlp_ratio=config.mlp_ratio, norm=_norm)


def _less(config: EncoderConfig, tokenizer: Tokenizer, place: nn.Module) -> Encoder:
    # As published: 4 channels of a head for bands, the others for places; heads too narrow for that are split evenly.
    width = config.dim // config.heads
    band = next((n for n in (4, 2, 1) if width % n == 0 and width // n >= n), 1)
    if config.dim % config.heads or (config.rotary and (band % 2 or (width // band) % 4)):
        told = f"dim {config.dim} and heads {config.heads}"
        raise ValueError(f"{told}, expected a multiple, and for rotary one of 16 for each head")
    blocks = [
        _block(
            config,
            LessAttention(config.dim, heads=config.heads, band_dim=band * config.heads, place_dim=width // band * config.heads),
        )
        for _ in range(config.depth)
    ]
    return LessEncoder(
        tokenizer,
        blocks,
        place=None if config.rotary else place,
        band=None if config.rotary else SpectralPosition(config.dim, unit=10.0),
        scale=1.0,
        rotation=GridRotation(width // band, band) if config.rotary else None,
        radius=config.radius,
    )
