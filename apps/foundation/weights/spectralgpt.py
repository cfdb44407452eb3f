"""The layouts of danfenghong/IEEE_TPAMI_SpectralGPT: auto-encoder and classifier."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ....core.backbones.token_encoder import TokenEncoder
from ....core.layers.token_position import TablePosition
from ....core.weights.arguments import ratio, read_arguments
from ....core.weights.load import Coverage, rename
from ..published.spectralgpt import CubeAutoencoder, CubeClassifier, cube_encoder
from .scales import StretchScale
from .system import BLOCK_NAMES, System, UnscaledError, depth_of, encoder_of, heads_of, image_size, join_qkv, load_renamed

# Sentinel-2 without B10, in the order of fMoW-Sentinel.
_WAVELENGTHS = (443.0, 490.0, 560.0, 665.0, 705.0, 740.0, 783.0, 842.0, 865.0, 945.0, 1610.0, 2190.0)
_NAMES = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")

_RULES: tuple[tuple[str, str | None], ...] = (
    *BLOCK_NAMES,
    (r"^decoder_(blocks|norm)\.", r"decoder.\1."),
    (r"^decoder_embed\.", "decoder.project."),
    (r"^mask_token$", "decoder.mask_token"),
    (r"^decoder_pred\.", "head.layers.0."),
    (r"^blocks\.", "encoder.blocks."),
    (r"^patch_embed\.proj\.", "encoder.tokenizer.proj."),
)


def infer(state: Mapping[str, Tensor], *, classifier: bool) -> dict[str, Any] | None:
    """Tell the arguments of the official constructor from a state dict; None if it is another network's.

    Without separate positions the number of bands does not show: it is taken to be 12, if that gives a square, else left open.
    """
    embed = state.get("patch_embed.proj.weight")
    if embed is None or embed.ndim != 5 or "blocks.0.attn.q.weight" not in state:
        return None
    if classifier != ("decoder_embed.weight" not in state):
        return None
    dim, channels, t_patch, patch = embed.shape[:4]
    prefix = "cls_token" in state
    separate = "pos_embed_spatial" in state
    groups, places = 12 // t_patch, 0  # as in all published files, if it does not show
    if separate:
        groups, places = state["pos_embed_temporal"].shape[1], state["pos_embed_spatial"].shape[1]
    elif groups and not (state["pos_embed"].shape[1] - prefix) % groups:
        places = (state["pos_embed"].shape[1] - prefix) // groups
    known = places > 0 and math.isqrt(places) ** 2 == places
    arguments = {
        "img_size": math.isqrt(places) * patch if known else None,
        "patch_size": patch,
        "in_chans": channels,
        "embed_dim": dim,
        "depth": depth_of(state, "blocks"),
        "mlp_ratio": ratio(len(state["blocks.0.mlp.fc1.weight"]), dim),
        "num_frames": groups * t_patch if known else None,
        "t_patch_size": t_patch,
        "no_qkv_bias": "blocks.0.attn.q.bias" not in state,
        "sep_pos_embed": separate,
        "cls_embed": prefix,
    }
    if classifier:
        return arguments | {"num_classes": len(state["head.weight"])}
    return arguments | {
        "decoder_embed_dim": len(state["decoder_embed.weight"]),
        "decoder_depth": depth_of(state, "decoder_blocks"),
        "pred_t_dim": groups * (len(state["decoder_pred.weight"]) // patch**2) if known else None,
    }


_COMMON = {
    "img_size": 224, "patch_size": 16, "in_chans": 3, "depth": 24, "num_heads": None, "mlp_ratio": 4.0, "num_frames": 16,
    "t_patch_size": 4, "no_qkv_bias": False, "cls_embed": False,
}  # fmt: skip


def _read(arguments: Mapping[str, Any], of: str, own: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    args = read_arguments(arguments, of=of, defaults=_COMMON | dict(own), **options)
    if args["num_frames"] is None or args["img_size"] is None:
        raise ValueError("tensors do not tell the number of bands: give num_frames and img_size")
    if args["in_chans"] != 1:
        raise ValueError(f"{of}: in_chans is {args['in_chans']}, but images are one volume of bands: expected 1")
    for whole, part in (("img_size", "patch_size"), ("num_frames", "t_patch_size")):
        if args[whole] % args[part]:
            raise ValueError(f"{of}: {whole} is {args[whole]}, no multiple of {part} {args[part]}")
    return args


def _size(args: Mapping[str, Any]) -> tuple[int, int, int]:
    side = args["img_size"] // args["patch_size"]
    return args["num_frames"] // args["t_patch_size"], side, side


def _encoder(args: Mapping[str, Any], *, norm: bool) -> TokenEncoder:
    return cube_encoder(
        args["embed_dim"],
        size=_size(args),
        cube=(args["t_patch_size"], args["patch_size"]),
        depth=args["depth"],
        heads=heads_of(args["embed_dim"], args["num_heads"], "num_heads"),
        mlp_ratio=args["mlp_ratio"],
        qkv_bias=not args["no_qkv_bias"],
        separate=args["sep_pos_embed"],
        prefix=args["cls_embed"],
        norm=norm,
    )


def build_autoencoder(arguments: Mapping[str, Any]) -> CubeAutoencoder:
    """Make an auto-encoder of arguments of the official MaskedAutoencoderViT.

    Raises:
        ValueError: for an unknown argument, sizes that do not divide, or heads that are not known.
    """
    own = {
        "embed_dim": 1024, "decoder_embed_dim": 512, "decoder_depth": 4, "decoder_num_heads": None, "norm_pix_loss": False,
        "sep_pos_embed": True, "pred_t_dim": 9,
    }  # fmt: skip
    args = _read(arguments, "MaskedAutoencoderViT", own, ignored=("trunc_init", "mask_ratio"))
    return CubeAutoencoder(
        _encoder(args, norm=True),
        args["decoder_embed_dim"],
        size=_size(args),
        bands=args["t_patch_size"] * (args["pred_t_dim"] or args["num_frames"]) // args["num_frames"],
        depth=args["decoder_depth"],
        heads=heads_of(args["decoder_embed_dim"], args["decoder_num_heads"], "decoder_num_heads"),
        mlp_ratio=args["mlp_ratio"],
        qkv_bias=not args["no_qkv_bias"],
        separate=args["sep_pos_embed"],
        prefix=args["cls_embed"],
        normalized=args["norm_pix_loss"],
    )


def build_classifier(arguments: Mapping[str, Any]) -> CubeClassifier:
    """Make a classifier of arguments of the official VisionTransformer (models_vit_tensor); errors as ``build_autoencoder``."""
    own = {"embed_dim": 768, "depth": 12, "num_classes": 10, "sep_pos_embed": False}
    ignored = ("drop_rate", "attn_drop_rate", "drop_path_rate", "dropout", "qk_scale")
    args = _read(arguments, "VisionTransformer", own, ignored=ignored)
    return CubeClassifier(_encoder(args, norm=False), args["num_classes"], skip_first=True)


def to_ours(state: Mapping[str, Tensor], size: tuple[int, int, int], *, classifier: bool) -> dict[str, Tensor]:
    """Return published tensors by our names.

    Args:
        state: published.
        size: spectral tokens, rows, columns of the positions.
        classifier: of which the last norm is not the encoder's.
    """
    left = join_qkv(state)
    ours: dict[str, Tensor] = {}
    for front, where in (("", "encoder"), ("decoder_", "decoder")):
        token = left.pop(f"{front}cls_token", None)
        place = left.pop(f"{front}pos_embed_class", None)
        whole, space, spectrum = (
            left.pop(f"{front}{name}", None) for name in ("pos_embed", "pos_embed_spatial", "pos_embed_temporal")
        )
        if whole is not None:
            place, table = (whole[:, :1], whole[:, 1:]) if token is not None else (None, whole)
            ours[f"{where}.position.table"] = _unflatten(table[0], size)
        if space is not None:
            ours[f"{where}.position.parts.0.table"] = _unflatten(space[0], size[1:])[None]
        if spectrum is not None:
            ours[f"{where}.position.parts.1.table"] = spectrum[0, :, None, None]
        if token is not None:
            summed = token[0] if place is None else token[0] + place[0]
            ours[f"{where}.prefix"] = summed if where == "encoder" else summed[0]
    ours |= rename(left, (*_RULES, (r"^norm\.", "norm." if classifier else "encoder.norm.")))
    if not any(name.startswith("encoder.prefix") for name in ours):
        first = next(iter(state.values()))
        ours["encoder.prefix"] = first.new_empty(0, len(state["norm.weight"])) if "norm.weight" in state else first.new_empty(0)
    if "decoder.mask_token" in ours:
        ours["decoder.mask_token"] = ours["decoder.mask_token"].flatten()
    return ours


def _unflatten(table: Tensor, size: tuple[int, ...]) -> Tensor:
    return torch.unflatten(table, 0, size) if len(table) == math.prod(size) else table  # another size is told on loading


def load(module: nn.Module, state: Mapping[str, Tensor]) -> Coverage:
    """Copy a published state dict into a module of ``build_autoencoder`` or ``build_classifier``."""
    assert isinstance(module, CubeAutoencoder | CubeClassifier)
    sizes = [part.size for part in module.encoder.position.modules() if isinstance(part, TablePosition)]
    size = tuple(max(axis) for axis in zip(*sizes, strict=True))
    ours = to_ours(state, (size[0], size[1], size[2]), classifier=isinstance(module, CubeClassifier))
    return load_renamed(module, state, ours)


def scale(arguments: Mapping[str, Any]) -> StretchScale:
    """Return the official scale: each band of each image from its least to its greatest value is 0..1.

    Raises:
        UnscaledError: for another number of bands than the 12 of all published files.
    """
    if arguments["num_frames"] != len(_WAVELENGTHS):
        given = arguments["num_frames"]
        raise UnscaledError(f"it takes {given} bands, and it is not known which: published files take 12 of Sentinel-2")
    return StretchScale(_WAVELENGTHS, _NAMES)


_infer = {classifier: partial(infer, classifier=classifier) for classifier in (False, True)}

SYSTEMS = (
    System("SpectralGPT", "GPL-3.0", _infer[False], build_autoencoder, load, encoder_of, scale, image_size),
    System("SpectralGPT (classifier)", "GPL-3.0", _infer[True], build_classifier, load, encoder_of, scale, image_size),
)
