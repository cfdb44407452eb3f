"""The layout of AABNassim/spectral_earth's SpecViT."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ....core.weights.arguments import read_arguments
from ....core.weights.load import Coverage, rename
from ..published.classifier import TokenClassifier
from ..published.spectralearth import spectral_encoder
from .system import BLOCK_NAMES, System, encoder_of, heads_of, load_renamed, unscaled
from .vit import split_positions, vit_arguments

_ADAPTER = "encoder.tokenizer.adapter."
_NAMES: tuple[tuple[str, str | None], ...] = (
    *BLOCK_NAMES,
    (r"^(blocks|norm)\.", r"encoder.\1."),
    (r"^(encoder\.blocks\.\d+)\.ls([12])\.gamma$", r"\1.scale\2"),
    (r"^fc_norm\.", "norm."),
    (r"^patch_embed\.proj\.", "encoder.tokenizer.embed.proj."),
)


def infer(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Tell the arguments of the official constructor from a state dict."""
    if "spectral_adapter.0.weight" not in state or "vit_core.pos_embed" not in state:
        return None
    sizes = vit_arguments(state, "vit_core.")
    side, patch = sizes.pop("side"), state["vit_core.patch_embed.proj.weight"].shape[-1]
    arguments = {
        **sizes,
        "token_patch_size": patch,
        "patch_size": side * patch,
        "num_classes": len(state["vit_core.head.weight"]) if "vit_core.head.weight" in state else 0,
        "global_pool": "avg" if "vit_core.fc_norm.weight" in state else "token",
    }
    return arguments | ({"init_values": 1e-5} if "vit_core.blocks.0.ls1.gamma" in state else {})


def build(arguments: Mapping[str, Any]) -> TokenClassifier:
    """Make a classifier of arguments of the official constructor.

    Raises:
        ValueError: for an unknown argument, or heads that are not known.
    """
    args = read_arguments(
        arguments,
        of="SpecVisionTransformer",
        defaults={
            "token_patch_size": 4, "patch_size": 128, "embed_dim": 768, "depth": 12, "num_heads": None, "mlp_ratio": 4,
            "num_classes": 1000, "global_pool": "token", "init_values": None,
        },
        only={"reduced_channels": (128,), "global_pool": ("token", "avg")},
        ignored=("dynamic_img_size", "drop_rate", "drop_path_rate", "attn_drop_rate", "proj_drop_rate", "pos_drop_rate"),
    )  # fmt: skip
    encoder = spectral_encoder(
        args["embed_dim"],
        patch=args["token_patch_size"],
        depth=args["depth"],
        heads=heads_of(args["embed_dim"], args["num_heads"], "num_heads"),
        mlp_ratio=args["mlp_ratio"],
        size=args["patch_size"] // args["token_patch_size"],
        layer_scale=args["init_values"],
    )
    return TokenClassifier(encoder, args["num_classes"], pooled=args["global_pool"] == "avg")


def adapter_to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the official adapter by our names: kernels of one pixel lose an axis. Gradients pass."""
    ours = {}
    for name, tensor in state.items():
        if match := re.fullmatch(r"(\d+)\.(.*)", name):
            stage, part = divmod(int(match[1]), 3)
            name = f"{('convs', 'norms')[part]}.{stage}.{match[2]}"
        ours[name] = tensor[..., 0] if tensor.ndim == 5 else tensor
    return ours


def to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return published tensors by our names and in our shapes. Gradients pass."""
    adapter = {n.removeprefix("spectral_adapter."): t for n, t in state.items() if n.startswith("spectral_adapter.")}
    rest = {n.removeprefix("vit_core."): t for n, t in state.items() if not n.startswith("spectral_adapter.")}
    ours = rename(split_positions(rest), _NAMES)
    return ours | {_ADAPTER + name: tensor for name, tensor in adapter_to_ours(adapter).items()}


def load(module: nn.Module, state: Mapping[str, Tensor]) -> Coverage:
    """Copy a published state dict into a module of ``build``."""
    return load_renamed(module, state, to_ours(state))


_scale = unscaled("it was trained on EnMAP less the mean and deviation of each band, which lie with its data set alone")

SYSTEMS = (
    System(
        "SpectralEarth SpecViT", "none stated", infer, build, load, encoder_of, _scale,
        lambda arguments: int(arguments["patch_size"]),
    ),
)  # fmt: skip
