"""The layouts of uiuctml/LESSViT and its predecessor uiuctml/GeospatialFM: encoders and auto-encoders."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from ....core.backbones.less_encoder import LessEncoder
from ....core.weights.arguments import read_arguments
from ....core.weights.less import less_encoder_state
from ....core.weights.load import rename
from ..published.less import SPECTRUM, LessAutoencoder, LessConfig, less_encoder

_DEFAULTS: dict[str, Any] = {
    "patch_size": 16, "embed_dim": 768, "channel_embed_dims_per_head": 4, "depth": 12, "num_heads": 12, "mlp_ratio": 4.0,
    "qkv_bias": True, "qk_norm": False, "init_values": None, "rank": 1, "decoder_embed_dim": 512, "decoder_depth": 8,
    "decoder_channel_embed_dims_per_head": 4, "decoder_num_heads": 16, "norm_pix_loss": True, "use_perception_field_mask": False,
    "attention_radius": 640, "use_rope_embed": False, "rope_embed_base": 100.0, "attn_type": "less", "spectrum": SPECTRUM,
}  # fmt: skip
# They concern masks, dropout and output formats, or change nothing: the residual position reaches no computation.
_IGNORED = (
    "mask_ratio", "channel_mask_ratio", "pos_chan_embed_residual", "drop_path_rate", "drop_path_uniform", "attn_drop",
    "proj_drop", "decoder_out_chans", "return_dict", "channel_dropout", "classes", "fusion_init_scale",
)  # fmt: skip
_COMBINE: dict[str, Any] = {"less": "product", "additive": "sum", "full": "full"}
_AUTOENCODER: list[tuple[str, str | None]] = [
    # Of a rotary decoder, which never turns anything.
    (r"^pos_chan_embed\.", None),
    (r"^decoder_embed\.", "project."),
    (r"^decoder_norm\.", "norm."),
    (r"^decoder_(optical|radar)_pred\.", r"\1."),
    (r"^spatial_mask_token$", "band_token"),
    (r"^channel_mask_token$", "place_token"),
]


def _configs(arguments: Mapping[str, Any], predecessor: bool) -> tuple[LessConfig, LessConfig, bool]:
    args = read_arguments(arguments, of="SpatialSpectralLowRankViTConfig", defaults=_DEFAULTS, ignored=_IGNORED)
    if args["attn_type"] not in _COMBINE:
        raise ValueError(f"attn_type is {args['attn_type']!r}, expected one of {', '.join(_COMBINE)}")
    if args["attn_type"] == "full" and args["use_perception_field_mask"]:
        raise ValueError("use_perception_field_mask: the published full attention takes no mask")
    encoder = LessConfig(
        patch=args["patch_size"],
        dim=args["embed_dim"],
        depth=args["depth"],
        heads=args["num_heads"],
        band_width=args["channel_embed_dims_per_head"],
        mlp_ratio=args["mlp_ratio"],
        ranks=args["rank"],
        attention=_COMBINE[args["attn_type"]],
        qkv_bias=args["qkv_bias"],
        qk_norm=args["qk_norm"],
        layer_scale=args["init_values"] or None,
        shared_values=predecessor,
        rotary=args["rope_embed_base"] if args["use_rope_embed"] else None,
        spectrum=tuple(args["spectrum"]),
        radius=args["attention_radius"] if args["use_perception_field_mask"] else None,
    )
    decoder = replace(
        encoder,
        dim=args["decoder_embed_dim"],
        depth=args["decoder_depth"],
        heads=args["decoder_num_heads"],
        band_width=args["decoder_channel_embed_dims_per_head"],
        # The predecessor's decoder adds positions, whatever the encoder does.
        rotary=None if predecessor else encoder.rotary,
    )
    return encoder, decoder, args["norm_pix_loss"]


def build_encoder(arguments: Mapping[str, Any], *, predecessor: bool = False) -> LessEncoder:
    """Make an encoder of arguments of the official configuration.

    Args:
        arguments: by their official names; ``spectrum`` is ours: the wavelengths in nm that the program scales to 0 and 1 for a
            rotary model.
        predecessor: whether they are of uiuctml/GeospatialFM.

    Raises:
        ValueError: for an unknown argument or value.
    """
    return less_encoder(_configs(arguments, predecessor)[0])


def build_autoencoder(arguments: Mapping[str, Any], *, predecessor: bool = False) -> LessAutoencoder:
    """Make an auto-encoder; arguments and errors as of ``build_encoder``."""
    encoder, decoder, normalized = _configs(arguments, predecessor)
    return LessAutoencoder(less_encoder(encoder), decoder, normalized=normalized, blind=True)


def encoder_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return published tensors of an encoder by our names. Gradients pass."""
    return less_encoder_state(state)


def autoencoder_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return published tensors of an auto-encoder by our names. Gradients pass."""
    encoder = less_encoder_state({n.removeprefix("encoder."): t for n, t in state.items() if n.startswith("encoder.")})
    decoder = {n.removeprefix("decoder."): t for n, t in state.items() if n.startswith("decoder.")}
    ours = {f"encoder.{name}": tensor for name, tensor in encoder.items()}
    return ours | less_encoder_state(rename(decoder, _AUTOENCODER), "decoder_blocks")
