"""Which encoder, and how it is built."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..backbones.token_encoder import Encoder, TokenEncoder
from ..blocks.metaformer import mlp_block
from ..layers.global_attention import GlobalAttention
from ..layers.metre_position import MetrePosition
from ..layers.tokenizers import WavelengthEmbed


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Settings of an encoder.

    Args:
        tokenizer: how images become tokens.
        dim: channels of the tokens.
        depth: blocks.
        heads: of attention.
        patch: pixels on a side of a token.
        mlp_ratio: hidden channels of the MLP for each channel.
    """

    tokenizer: Literal["wavelength"] = "wavelength"
    dim: int = 192
    depth: int = 6
    heads: int = 6
    patch: int = 8
    mlp_ratio: float = 4.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in YAML."""
        return asdict(self)


def build_encoder(config: EncoderConfig) -> Encoder:
    """Return an encoder with random weights."""
    blocks = [
        mlp_block(config.dim, GlobalAttention(config.dim, heads=config.heads), mlp_ratio=config.mlp_ratio)
        for _ in range(config.depth)
    ]
    return TokenEncoder(WavelengthEmbed(config.dim, patch=config.patch), MetrePosition(config.dim), blocks)
