"""The layouts of insitro/ChannelViT, with and without hierarchical channel sampling."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ....core.weights.arguments import read_arguments
from ....core.weights.load import Coverage, rename
from ..published.channelvit import channel_encoder
from ..published.classifier import TokenClassifier
from .system import BLOCK_NAMES, System, encoder_of, heads_of, load_renamed, unnamed_bands, unscaled
from .vit import split_positions, vit_arguments

_NAMES: tuple[tuple[str, str | None], ...] = (
    *BLOCK_NAMES,
    (r"^(blocks|norm)\.", r"encoder.\1."),
    (r"^patch_embed\.proj\.", "encoder.tokenizer.proj."),
    (r"^patch_embed\.channel_embed(\.weight)?$", "encoder.tokenizer.table"),
)


def infer(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Tell the arguments of the official constructors from a state dict; ``enable_sample`` is the one that samples."""
    sampling = "patch_embed.channel_embed.weight" in state
    table = state.get("patch_embed.channel_embed.weight", state.get("patch_embed.channel_embed"))
    if table is None or "patch_embed.proj.weight" not in state or "cls_token" not in state:
        return None
    sizes = vit_arguments(state)
    side, patch = sizes.pop("side"), state["patch_embed.proj.weight"].shape[-1]
    arguments = {
        **sizes,
        "img_size": [side * patch],
        "patch_size": patch,
        "in_chans": table.shape[0 if sampling else 2],
        "qkv_bias": "blocks.0.attn.qkv.bias" in state,
        "num_classes": len(state["head.weight"]) if "head.weight" in state else 0,
    }
    return arguments | ({"enable_sample": True} if sampling else {})


def wavelengths_of(arguments: Mapping[str, Any]) -> tuple[float, ...]:
    """Tell the bands: those of ``wavelengths``; else that they differ, for files do not say what they are.

    Raises:
        ValueError: if there are not as many as channels.
    """
    channels, told = arguments.get("in_chans", 3), arguments.get("wavelengths")
    if told is None:
        return unnamed_bands(channels)
    if len(told) != channels:
        raise ValueError(f"ChannelVisionTransformer: {len(told)} wavelengths for {channels} channels")
    return tuple(told)


def build(arguments: Mapping[str, Any]) -> TokenClassifier:
    """Make a classifier of arguments of the official constructors; its positions are those of the published program.

    Args:
        arguments: and ``wavelengths`` of the channels, nm or codes of radar, which the official constructors do not have.

    Raises:
        ValueError: for an unknown argument, or heads that are not known.
    """
    args = read_arguments(
        arguments,
        of="ChannelVisionTransformer",
        defaults={
            "img_size": [224], "patch_size": 16, "in_chans": 3, "num_classes": 0, "embed_dim": 768, "depth": 12,
            "num_heads": None, "mlp_ratio": 4.0, "qkv_bias": False, "enable_sample": False, "wavelengths": None,
        },
        only={"qk_scale": (None,)},
        ignored=("drop_rate", "attn_drop_rate", "drop_path_rate"),
    )  # fmt: skip
    encoder = channel_encoder(
        wavelengths_of(args),
        args["embed_dim"],
        patch=args["patch_size"],
        depth=args["depth"],
        heads=heads_of(args["embed_dim"], args["num_heads"], "num_heads"),
        mlp_ratio=args["mlp_ratio"],
        qkv_bias=args["qkv_bias"],
        size=args["img_size"][0] // args["patch_size"],
        sample=args["enable_sample"],
        stretched_positions=True,
    )
    return TokenClassifier(encoder, args["num_classes"])


def to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return published tensors by our names and in our shapes. Gradients pass."""
    ours = rename(split_positions(state), _NAMES)
    if "encoder.tokenizer.proj.weight" in ours:
        ours["encoder.tokenizer.proj.weight"] = ours["encoder.tokenizer.proj.weight"].flatten(1)
    if "patch_embed.channel_embed" in state:
        ours["encoder.tokenizer.table"] = ours["encoder.tokenizer.table"][0, :, :, 0, 0].T
    return ours


def load(module: nn.Module, state: Mapping[str, Tensor]) -> Coverage:
    """Copy a published state dict into a module of ``build``."""
    return load_renamed(module, state, to_ours(state))


_scale = unscaled("files of ChannelViT do not tell which bands they are for")

SYSTEMS = (
    System(
        "ChannelViT", "CC-BY-NC-4.0", infer, build, load, encoder_of, _scale,
        lambda arguments: int(arguments["img_size"][0]),
    ),
)  # fmt: skip
