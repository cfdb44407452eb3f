"""The layouts of gsumbul/SMARTIES: the auto-encoder, and the classifier of one sensor or several."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ....core.backbones.token_encoder import TokenEncoder
from ....core.layers.tokenizers import RADAR, SMARTIES_RANGES, SpectralRange
from ....core.sensors.normalization import Normalization
from ....core.weights.arguments import read_arguments
from ....core.weights.load import Coverage, rename
from ..published.smarties import Pooling, SmartiesAutoencoder, SmartiesClassifier, range_encoder
from .smarties_scale import smarties_scale
from .system import BLOCK_NAMES, System, UnscaledError, depth_of, encoder_of, heads_of, image_size, load_renamed
from .vit import vit_arguments

_EMBEDS = "spectrum_projection.spectrum_embeds"
_RADAR_FROM = 1e6  # nm: a millimetre

_NAMES: tuple[tuple[str, str | None], ...] = (
    *BLOCK_NAMES,
    (r"^(blocks|norm)\.", r"encoder.\1."),
    (r"^fc_norm\.", "norm."),
    (r"^spectrum_projection\.spectrum_embeds\.(\d+)\.proj\.", r"encoder.tokenizer.embeds.\1."),
    (r"^decoder_(blocks|norm)\.", r"decoder.\1."),
    (r"^decoder_embed\.", "decoder.project."),
    (r"^mask_token$", "decoder.mask_token"),
    (r"^decoder_preds\.", "head.heads."),
)


def ranges_of(specs: Mapping[str, Mapping[str, Any]]) -> tuple[SpectralRange, ...]:
    """Return ranges as the official file of the electromagnetic spectrum tells them, in the order of their projections.

    Ranges of radar are told by name, here or in the entry, which is a polarisation.

    Raises:
        ValueError: a range of radar whose name is none.
    """
    used = {name: spec for name, spec in specs.items() if spec["projection_idx"] != -1}
    order = sorted(used, key=lambda name: (bool(used[name]["agg_projections"]), used[name]["projection_idx"]))
    ranges = []
    for name in order:
        spec = used[name]
        low, high = float(spec["min_wavelength"]), float(spec["max_wavelength"])
        polarization = None
        if low > _RADAR_FROM:
            told = [part.upper() for part in (str(spec["name"]), name) if part.upper() in RADAR]
            if not told:
                raise ValueError(f"spectral range {name} of radar is named for no polarisation, allowed are {', '.join(RADAR)}")
            polarization = told[0]
        ranges.append(SpectralRange(name, low, high, polarization, tuple(spec["agg_projections"])))
    return tuple(ranges)


def infer_autoencoder(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Tell the arguments of the official auto-encoder from a state dict."""
    if f"{_EMBEDS}.0.proj.weight" not in state or "decoder_embed.weight" not in state:
        return None
    return _sizes(state) | {
        "decoder_embed_dim": len(state["decoder_embed.weight"]),
        "decoder_depth": depth_of(state, "decoder_blocks"),
    }


def infer_classifier(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Tell the arguments of the official classifier from a state dict."""
    if f"{_EMBEDS}.0.proj.weight" not in state or "decoder_embed.weight" in state:
        return None
    arguments = _sizes(state)
    sources = state["head.weight"].shape[1] // arguments["embed_dim"] if "head.weight" in state else 1
    return arguments | {
        "num_classes": len(state["head.weight"]) if "head.weight" in state else 0,
        "global_pool": "fc_norm.weight" in state,
        "qkv_bias": "blocks.0.attn.qkv.bias" in state,
        "multi_modal": sources > 1,
        "num_sources": sources,
    }


def _sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    sizes = vit_arguments(state)
    patch = math.isqrt(state[f"{_EMBEDS}.0.proj.weight"].shape[1])
    return sizes | {"img_size": sizes.pop("side") * patch, "patch_size": patch}


_COMMON = {
    "spectrum_specs": None, "img_size": 224, "patch_size": 16, "embed_dim": 1024, "depth": 24, "num_heads": None,
    "mlp_ratio": 4.0,
}  # fmt: skip
_IGNORED = ("mixed_precision", "norm_layer", "in_chans")


def _encoder(args: Mapping[str, Any], *, as_published: bool, **options: Any) -> TokenEncoder:
    specs = args["spectrum_specs"]
    return range_encoder(
        args["embed_dim"],
        patch=args["patch_size"],
        size=int(args["img_size"] / args["patch_size"]),
        depth=args["depth"],
        heads=heads_of(args["embed_dim"], args["num_heads"], "num_heads"),
        mlp_ratio=args["mlp_ratio"],
        ranges=SMARTIES_RANGES if specs is None else ranges_of(specs),
        farther_weighs_more=as_published,
        **options,
    )


def build_autoencoder(arguments: Mapping[str, Any], *, as_published: bool = False) -> SmartiesAutoencoder:
    """Make an auto-encoder of arguments of the official SMARTIES; without ``spectrum_specs`` with its own ranges.

    Args:
        arguments: by their official names.
        as_published: with the two slips of the published program: one stream of a pair is not mixed, and a range that mixes
            others takes more of the farther one. The weights know neither.

    Raises:
        ValueError: for an unknown argument, or heads that are not known.
    """
    own = {"decoder_embed_dim": 512, "decoder_depth": 8, "decoder_num_heads": None, "norm_pix_loss": False}
    args = read_arguments(arguments, of="SMARTIES", defaults=_COMMON | own, ignored=_IGNORED)
    return SmartiesAutoencoder(
        _encoder(args, as_published=as_published),
        args["decoder_embed_dim"],
        depth=args["decoder_depth"],
        heads=heads_of(args["decoder_embed_dim"], args["decoder_num_heads"], "decoder_num_heads"),
        mlp_ratio=args["mlp_ratio"],
        normalized=args["norm_pix_loss"],
        one_sided_mixing=as_published,
    )


def build_classifier(arguments: Mapping[str, Any], *, as_published: bool = False) -> SmartiesClassifier:
    """Make a classifier of arguments of the official SmartiesVisionTransformer; see ``build_autoencoder``."""
    own = {
        "num_classes": 1000, "global_pool": False, "all_tokens": False, "multi_modal": False, "num_sources": 1, "qkv_bias": True,
    }  # fmt: skip
    args = read_arguments(
        arguments,
        of="SmartiesVisionTransformer",
        defaults=_COMMON | own,
        ignored=(*_IGNORED, "drop_rate", "pos_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate", "weight_init"),
    )
    pooling: Pooling = "none" if args["all_tokens"] else "mean" if args["global_pool"] else "class"
    if args["all_tokens"] and args["num_classes"]:
        raise ValueError("SmartiesVisionTransformer: all_tokens returns maps, which its head does not take: set num_classes to 0")
    return SmartiesClassifier(
        _encoder(args, as_published=as_published, qkv_bias=args["qkv_bias"], norm=pooling == "class"),
        args["num_classes"],
        pooling=pooling,
        sensors=args["num_sources"] if args["multi_modal"] else 1,
    )


def to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return published tensors by our names."""
    left = dict(state)
    tables = {name: left.pop(f"{name}pos_embed") for name in ("", "decoder_") if f"{name}pos_embed" in left}
    token = left.pop("cls_token", None)
    ours = rename(left, _NAMES)
    for name, table in tables.items():
        side = math.isqrt(table.shape[1] - 1)
        place = "decoder" if name else "encoder"
        ours[f"{place}.position.table"] = torch.unflatten(table[:, 1:], 1, (side, -1))
        if name:
            ours["decoder.prefix"] = table[0, 0]
        elif token is not None:
            ours["encoder.prefix"] = token[0] + table[0, :1]
    if "decoder.mask_token" in ours:
        ours["decoder.mask_token"] = ours["decoder.mask_token"].flatten()
    return ours


def load(module: nn.Module, state: Mapping[str, Tensor]) -> Coverage:
    """Copy a published state dict into a module of ``build_autoencoder`` or ``build_classifier``."""
    return load_renamed(module, state, to_ours(state))


def _scale(arguments: Mapping[str, Any]) -> Normalization:
    if arguments.get("spectrum_specs") is not None:
        raise UnscaledError("it has spectral ranges of its own, and how their images were scaled is not known")
    return smarties_scale()


SYSTEMS = (
    System("SMARTIES", "Apache-2.0", infer_autoencoder, build_autoencoder, load, encoder_of, _scale, image_size),
    System("SMARTIES (classifier)", "Apache-2.0", infer_classifier, build_classifier, load, encoder_of, _scale, image_size),
)
