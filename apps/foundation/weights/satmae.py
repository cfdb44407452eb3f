"""The layouts of sustainlab-group/SatMAE and techmn/satmae_pp: auto-encoders and classifiers of groups of bands.

A SatMAE classifier has the same tensors as one of SatMAE++. Which bands a group has does not show in tensors either: groups of 4,
4 and 2 bands are taken for those of all published files.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ....core.backbones.token_encoder import TokenEncoder
from ....core.layers.sincos import plane, sincos
from ....core.weights.arguments import read_arguments
from ....core.weights.load import Coverage, rename
from ..published.classifier import TokenClassifier
from ..published.satmae import GroupAutoencoder, group_encoder
from .satmae_scale import WAVELENGTHS, satmae_scale
from .scales import RangeScale
from .system import (
    BLOCK_NAMES,
    System,
    UnscaledError,
    depth_of,
    encoder_of,
    heads_of,
    image_size,
    load_renamed,
    unnamed_bands,
)
from .vit import vit_arguments

SENTINEL2_GROUPS = ((0, 1, 2, 6), (3, 4, 5, 7), (8, 9))

_NAMES_OF_BOTH: tuple[tuple[str, str | None], ...] = (
    *BLOCK_NAMES,
    (r"^(blocks|norm)\.", r"encoder.\1."),
    (r"^patch_embed\.proj\.", "patch_embed.0.proj."),
    (r"^patch_embed\.(\d+)\.proj\.", r"encoder.tokenizer.embeds.\1.proj."),
    (r"^cls_token$", "encoder.prefix"),
)
_AUTOENCODER_NAMES: tuple[tuple[str, str | None], ...] = (
    *_NAMES_OF_BOTH,
    (r"^decoder_(blocks|norm)\.", r"decoder.\1."),
    (r"^decoder_embed\.", "decoder.project."),
    (r"^mask_token$", "decoder.mask_token"),
    (r"^decoder_pred\.(weight|bias)$", r"decoder_pred.0.\1"),
    (r"^decoder_pred\.", "head.layers."),
    (r"^proj_up_conv\.", "larger.inward."),
    (r"^proj_up_norm\.", "larger.norm."),
    (r"^up_block\.", "up_block1."),
    (r"^up_block1\.proj_out\.", "larger.outward.0."),
    (r"^up_block2\.proj_out\.", "larger.outward.1."),
    (r"^up_block1\.", "larger.blocks.0."),
    (r"^up_block2\.", "larger.blocks.1."),
    (r"^(larger\.blocks\.\d)\.up_conv\.", r"\1.up."),
    (r"^(larger\.blocks\.\d)\.up_norm\.", r"\1.norm1."),
    (r"^(larger\.blocks\.\d)\.res_block\.", r"\1."),
    (r"^(larger\.blocks\.\d)\.res_norm\.", r"\1.norm2."),
)


def infer_autoencoder(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Tell the arguments of the official auto-encoders from a state dict."""
    grouped = "patch_embed.0.proj.weight" in state
    if not (grouped or "proj_up_conv.weight" in state) or "decoder_embed.weight" not in state or "mask_token" not in state:
        return None
    arguments = _sizes(state) | {
        "decoder_embed_dim": len(state["decoder_embed.weight"]),
        "decoder_depth": depth_of(state, "decoder_blocks"),
    }
    if grouped:
        arguments["decoder_channel_embed"] = state["decoder_channel_embed"].shape[-1]
    if "proj_up_conv.weight" in state:
        arguments["proj_ratio"] = len(state["proj_up_conv.weight"]) // state["proj_up_conv.weight"].shape[1]
    return arguments


def infer_classifier(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Tell the arguments of the official classifier of groups from a state dict."""
    if "patch_embed.0.proj.weight" not in state or "channel_cls_embed" not in state:
        return None
    return _sizes(state) | {
        "num_classes": len(state["head.weight"]) if "head.weight" in state else 0,
        "global_pool": "fc_norm.weight" in state,
        "qkv_bias": "blocks.0.attn.qkv.bias" in state,
    }


def _sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    embeds = [state[name] for i in range(len(state)) if (name := f"patch_embed.{i}.proj.weight") in state]
    grouped = bool(embeds)
    embeds = embeds or [state["patch_embed.proj.weight"]]
    arguments, patch = vit_arguments(state), embeds[0].shape[-1]
    arguments |= {
        "img_size": arguments.pop("side") * patch,
        "patch_size": patch,
        "in_chans": sum(embed.shape[1] for embed in embeds),
    }
    if grouped:
        sizes = tuple(embed.shape[1] for embed in embeds)
        first = [sum(sizes[:i]) for i in range(len(sizes))]
        counted = tuple(tuple(range(start, start + size)) for start, size in zip(first, sizes, strict=True))
        arguments |= {
            "channel_groups": SENTINEL2_GROUPS if sizes == (4, 4, 2) else counted,
            "channel_embed": state["channel_embed"].shape[-1],
        }
    return arguments


def _is_sentinel2(args: Mapping[str, Any]) -> bool:
    return tuple(tuple(group) for group in args.get("channel_groups", ())) == SENTINEL2_GROUPS


def wavelengths_of(args: Mapping[str, Any]) -> tuple[float, ...]:
    """Tell the wavelengths of the image's bands; of unknown ones only that they differ."""
    if _is_sentinel2(args):
        return WAVELENGTHS
    return unnamed_bands(args["in_chans"])


def _encoder(args: Mapping[str, Any], groups: Sequence[Sequence[int]], **options: Any) -> TokenEncoder:
    bands = wavelengths_of(args)
    return group_encoder(
        [[bands[band] for band in group] for group in groups],
        args["embed_dim"],
        patch=args["patch_size"],
        depth=args["depth"],
        heads=heads_of(args["embed_dim"], args["num_heads"], "num_heads"),
        mlp_ratio=args["mlp_ratio"],
        **options,
    )


_COMMON = {"img_size": 96, "patch_size": 8, "in_chans": 10, "embed_dim": 1024, "depth": 24, "num_heads": None, "mlp_ratio": 4.0}
_OF_AUTOENCODER = {
    "decoder_embed_dim": 512, "decoder_depth": 8, "decoder_num_heads": None, "norm_pix_loss": False, "proj_ratio": None,
}  # fmt: skip


def build_autoencoder(arguments: Mapping[str, Any]) -> GroupAutoencoder:
    """Make an auto-encoder of arguments of the official constructors; with ``channel_groups`` the one of groups.

    ``proj_ratio`` makes it one of SatMAE++. Whether places are hidden for all groups at once (``spatial_mask``) shows in the
    masks that it is given alone.

    Raises:
        ValueError: for an unknown argument, or heads that are not known.
    """
    grouped = "channel_groups" in arguments
    own: dict[str, Any] = {"channel_groups": SENTINEL2_GROUPS, "channel_embed": 256, "decoder_channel_embed": 128}
    plain: dict[str, Any] = {"img_size": 224, "patch_size": 16, "in_chans": 3}
    args = read_arguments(
        arguments,
        of="MaskedAutoencoderGroupChannelViT" if grouped else "MaskedAutoencoderViT",
        defaults=_COMMON | _OF_AUTOENCODER | (own if grouped else plain),
        ignored=("spatial_mask",) if grouped else (),
    )
    groups = args["channel_groups"] if grouped else [range(args["in_chans"])]
    larger = 0 if args["proj_ratio"] is None else 2 if grouped else 1
    return GroupAutoencoder(
        _encoder(args, groups, group_dim=args["channel_embed"] if grouped else 0),
        wavelengths_of(args),
        args["decoder_embed_dim"],
        depth=args["decoder_depth"],
        heads=heads_of(args["decoder_embed_dim"], args["decoder_num_heads"], "decoder_num_heads"),
        mlp_ratio=args["mlp_ratio"],
        group_dim=args["decoder_channel_embed"] if grouped else 0,
        larger=larger,
        width=args["proj_ratio"] or 1,
        normalized=args["norm_pix_loss"],
        heads_in_band_order=grouped,
    )


def build_classifier(arguments: Mapping[str, Any]) -> TokenClassifier:
    """Make a classifier of arguments of the official GroupChannelsVisionTransformer; errors as ``build_autoencoder``."""
    own = {"num_classes": 1000, "global_pool": False, "channel_groups": SENTINEL2_GROUPS, "channel_embed": 256, "qkv_bias": True}
    args = read_arguments(
        arguments,
        of="GroupChannelsVisionTransformer",
        defaults=_COMMON | own,
        ignored=("drop_rate", "drop_path_rate", "attn_drop_rate", "weight_init"),
    )
    encoder = _encoder(
        args,
        args["channel_groups"],
        group_dim=args["channel_embed"],
        qkv_bias=args["qkv_bias"],
        size=args["img_size"] // args["patch_size"],
    )
    return TokenClassifier(encoder, args["num_classes"], pooled=args["global_pool"])


def autoencoder_state(module: nn.Module, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return published tensors by our names, and the names of those that are equal to the waves that we compute.

    Raises:
        ValueError: if one of these is not.
    """
    left = dict(state)
    grouped = "channel_embed" in left
    tables = {name: left.pop(name) for name in _TABLES if name in left}
    verified = tuple(tables)
    for name, table in tables.items():
        if name.endswith("channel_embed"):
            waves, table = sincos(torch.arange(float(table.shape[1])), table.shape[2]), table[0]
        else:
            count = torch.arange(float(math.isqrt(table.shape[1] - 1)))[None]
            waves, table = plane(count, count, table.shape[2]).flatten(0, 2), table[0, 1:]
        if waves.shape != table.shape or not torch.allclose(waves, table.detach().float(), atol=1e-3):
            raise ValueError(f"{name} is not the fixed waves that it is in published files")
    ours = rename(left, _AUTOENCODER_NAMES)
    if "pos_embed" in tables and "encoder.prefix" in ours:
        first = 0 if grouped else tables["pos_embed"][0, :1]  # the one of groups adds none to its class token
        ours["encoder.prefix"] = ours["encoder.prefix"][0] + first
    if "decoder_pos_embed" in tables:
        parts = [tables["decoder_pos_embed"][0, 0]]
        parts += [tables["decoder_channel_embed"][0, -1]] if "decoder_channel_embed" in tables else []
        ours["decoder.prefix"] = torch.cat(parts)
    if "decoder.mask_token" in ours:
        ours["decoder.mask_token"] = ours["decoder.mask_token"].flatten()
    if "larger.inward.weight" in ours:
        ours["larger.inward.weight"] = ours["larger.inward.weight"].flatten(1)
    if not grouped and isinstance(module, GroupAutoencoder):  # there a pixel's bands follow each other
        bands = len(module.groups[0])
        for name in ("head.layers.0.weight", "head.layers.0.bias"):
            if name in ours and len(ours[name]) % bands == 0:
                ours[name] = torch.unflatten(ours[name], 0, (-1, bands)).transpose(0, 1).flatten(0, 1)
    return ours, verified


_TABLES = ("pos_embed", "channel_embed", "decoder_pos_embed", "decoder_channel_embed")


def classifier_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return published tensors by our names."""
    left = dict(state)
    tables = {name: left.pop(name) for name in ("pos_embed", "channel_embed", "channel_cls_embed") if name in left}
    ours = rename(left, ((r"^fc_norm\.", "pooled_norm."), *_NAMES_OF_BOTH, (r"^pooled_norm\.", "norm.")))
    if tables.keys() >= {"pos_embed", "channel_embed", "channel_cls_embed"} and "encoder.prefix" in ours:
        places = tables["pos_embed"]
        side = math.isqrt(places.shape[1] - 1)
        ours["encoder.position.parts.0.table"] = torch.unflatten(places[:, 1:], 1, (side, -1))
        ours["encoder.position.parts.1.table"] = tables["channel_embed"][0, :, None, None]
        ours["encoder.prefix"] = ours["encoder.prefix"][0] + torch.cat([places[0, :1], tables["channel_cls_embed"][0]], dim=-1)
    return ours


def load_autoencoder(module: nn.Module, state: Mapping[str, Tensor]) -> Coverage:
    """Copy a published state dict into a module of ``build_autoencoder``."""
    ours, verified = autoencoder_state(module, state)
    return load_renamed(module, state, ours, verified)


def load_classifier(module: nn.Module, state: Mapping[str, Tensor]) -> Coverage:
    """Copy a published state dict into a module of ``build_classifier``."""
    return load_renamed(module, state, classifier_state(state))


def scale(arguments: Mapping[str, Any]) -> RangeScale:
    """Return the official scale: two deviations around the mean are 0..1, the rest is cut off.

    Raises:
        UnscaledError: for other bands than those of all published files for Sentinel-2.
    """
    if not _is_sentinel2(arguments):
        what = "colour pictures of 8 bits" if "channel_groups" not in arguments else "other groups of bands"
        raise UnscaledError(
            f"it was trained on {what}: which bands and scale it wants is not known, only on Sentinel-2's ten bands"
        )
    return satmae_scale()


def _autoencoder(name: str, licence: str, *, multiscale: bool, grouped: bool = True) -> System:
    def infer(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
        own = ("proj_up_conv.weight" in state) == multiscale and ("patch_embed.0.proj.weight" in state) == grouped
        return infer_autoencoder(state) if own else None

    return System(name, licence, infer, build_autoencoder, load_autoencoder, encoder_of, scale, image_size)


SYSTEMS = (
    _autoencoder("SatMAE++", "Apache-2.0", multiscale=True),
    _autoencoder("SatMAE++ (RGB)", "Apache-2.0", multiscale=True, grouped=False),
    _autoencoder("SatMAE", "CC-BY-NC-4.0", multiscale=False),
    System(
        "SatMAE or SatMAE++ (classifier)",
        "CC-BY-NC-4.0 if it is SatMAE's, Apache-2.0 if it is SatMAE++'s; their tensors are alike",
        infer_classifier,
        build_classifier,
        load_classifier,
        encoder_of,
        scale,
        image_size,
    ),
)
