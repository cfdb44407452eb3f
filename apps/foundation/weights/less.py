"""The layouts of uiuctml/LESSViT and its predecessor uiuctml/GeospatialFM: encoders and auto-encoders."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from ....core.backbones.less_encoder import LessEncoder
from ....core.weights.arguments import ratio, read_arguments
from ....core.weights.less import less_encoder_state
from ....core.weights.load import Coverage, rename
from ..published.less import SPECTRUM, LessAutoencoder, LessConfig, less_encoder
from .system import System, depth_of, encoder_of, load_renamed, unscaled

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
        scaled=predecessor and encoder.rotary is not None,
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


def infer(state: Mapping[str, Tensor], *, autoencoder: bool, predecessor: bool) -> dict[str, Any] | None:
    """Tell the arguments of the official configuration from a state dict; None if it is another network's.

    Ranks, the radius within which places see each other, and how bands and places are combined do not show: they are taken to be
    those of the official defaults.
    """
    prefix = "encoder." if autoencoder else ""
    pool = "blocks.0.low_dim_pool" if predecessor else "blocks.0.attn.low_dim_pool"
    if f"{prefix}{pool}.channel_linear.weight" not in state:
        return None
    arguments = _sizes(state, f"{prefix}blocks", pool.removeprefix("blocks.0."))
    arguments |= {
        "patch_size": state[f"{prefix}optical_patch_embed.proj.0.weight"].shape[-1],
        "qkv_bias": any(name.endswith("branch.qk.bias") for name in state),
        "qk_norm": any(".q_norm." in name for name in state),
        "init_values": 1.0 if f"{prefix}blocks.0.ls1.gamma" in state else None,
        "use_rope_embed": f"{prefix}pos_chan_embed.periods_c" in state,
    }
    if autoencoder:
        decoder = _sizes(state, "decoder.decoder_blocks", pool.removeprefix("blocks.0."))
        names = ("embed_dim", "depth", "num_heads", "channel_embed_dims_per_head")
        arguments |= {f"decoder_{name}": decoder[name] for name in names}
    return arguments


def _sizes(state: Mapping[str, Tensor], blocks: str, pool: str) -> dict[str, Any]:
    bands, dim = state[f"{blocks}.0.{pool}.channel_linear.weight"].shape
    width = dim // len(state[f"{blocks}.0.{pool}.spatial_linear.weight"])  # a head's channels on the bands
    return {
        "embed_dim": dim,
        "depth": depth_of(state, blocks.replace(".", r"\.")),
        "num_heads": bands // width,
        "channel_embed_dims_per_head": width,
        "mlp_ratio": ratio(len(state[f"{blocks}.0.mlp.fc1.weight"]), dim),
    }


def _load_encoder(module: nn.Module, state: Mapping[str, Tensor]) -> Coverage:
    return load_renamed(module, state, encoder_state(state))


def _load_autoencoder(module: nn.Module, state: Mapping[str, Tensor]) -> Coverage:
    return load_renamed(module, state, autoencoder_state(state))


def _itself(module: nn.Module) -> LessEncoder:
    assert isinstance(module, LessEncoder)
    return module


_scale = unscaled(
    "it was trained on EnMAP less the mean and deviation of each band in SpectralEarth, which lie with that data set alone"
)


def _size(arguments: Mapping[str, Any]) -> None:
    return None


def _systems(name: str, *, predecessor: bool) -> tuple[System, System]:
    licence = "none stated"
    parts = [partial(infer, autoencoder=whole, predecessor=predecessor) for whole in (True, False)]
    builds = [partial(build, predecessor=predecessor) for build in (build_autoencoder, build_encoder)]
    return (
        System(name, licence, parts[0], builds[0], _load_autoencoder, encoder_of, _scale, _size),
        System(f"{name} (encoder)", licence, parts[1], builds[1], _load_encoder, _itself, _scale, _size),
    )


SYSTEMS = (*_systems("LESS ViT", predecessor=False), *_systems("LESS ViT of GeospatialFM", predecessor=True))
