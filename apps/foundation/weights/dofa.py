"""The layouts of DOFA: torchgeo's, which is that of zhu-xlab/DOFA version 1, and version 2."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ....core.backbones.token_encoder import TokenEncoder
from ....core.weights.arguments import read_arguments
from ....core.weights.load import Coverage, rename
from ..published.classifier import TokenClassifier
from ..published.dofa import dofa_encoder
from .sensor_scales import RangeTable, SensorScale
from .system import BLOCK_NAMES, System, encoder_of, heads_of, image_size, load_renamed
from .vit import split_positions, vit_arguments

_NAMES: tuple[tuple[str, str | None], ...] = (
    *BLOCK_NAMES,
    (r"^blocks\.", "encoder.blocks."),
    (r"^(encoder\.blocks\.\d+)\.ls([12])\.gamma$", r"\1.scale\2"),
    (r"^norm\.", "encoder.norm."),
    (r"^fc_norm\.", "norm."),
    (r"^patch_embed\.fclayer\.w([12])\.", r"encoder.tokenizer.fc\1."),
    (r"^patch_embed\.weight_generator\.transformer_encoder\.layers\.", "encoder.tokenizer.blocks."),
    (r"^patch_embed\.weight_generator\.weight_tokens$", "encoder.tokenizer.learned"),
    (r"^patch_embed\.weight_generator\.bias_token$", "encoder.tokenizer.bias_token"),
    (r"^patch_embed\.weight_generator\.fc_(weight|bias)\.", r"encoder.tokenizer.to_\1."),
)

# Of its pretraining, in the files of the authors: its mask token, its decoder's projector, and the norm of its encoder's tokens,
# in place of which a classifier has one of its own behind the mean.
_OF_PRETRAINING = r"^(mask_token$|projector\.|decoder|teacher)"


def infer(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Tell the arguments of torchgeo's constructor from a state dict."""
    return None if "cls_token" not in state else _infer(state, "")


def infer_second(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Tell the arguments of the constructor of version 2 from a state dict."""
    return None if "model.cls_token" not in state else _infer(state, "model.")


def _infer(state: Mapping[str, Tensor], prefix: str) -> dict[str, Any] | None:
    tokens = state.get("patch_embed.weight_generator.weight_tokens")
    if tokens is None:
        return None
    sizes = vit_arguments(state, prefix)
    side, dim = sizes.pop("side"), sizes["embed_dim"]
    patch = round((len(state["patch_embed.weight_generator.fc_weight.weight"]) / dim) ** 0.5)
    arguments = {**sizes, "img_size": side * patch, "patch_size": patch}
    if prefix:
        return arguments
    return arguments | {
        "dynamic_embed_dim": tokens.shape[1],
        "num_classes": len(state["head.weight"]) if "head.weight" in state else 0,
        "global_pool": _pretrained(state) or "norm.weight" not in state,
    }


def _pretrained(state: Mapping[str, Tensor]) -> bool:
    return any(re.search(_OF_PRETRAINING, name) for name in state)


def build(arguments: Mapping[str, Any]) -> TokenClassifier:
    """Make a classifier of arguments of torchgeo's constructor.

    Raises:
        ValueError: for an unknown argument, or heads that are not known.
    """
    args = read_arguments(
        arguments,
        of="DOFA",
        defaults={
            "img_size": 224, "patch_size": 16, "embed_dim": 1024, "depth": 24, "num_heads": None, "dynamic_embed_dim": 128,
            "num_classes": 45, "global_pool": True, "mlp_ratio": 4.0,
        },
        ignored=("drop_rate",),
    )  # fmt: skip
    return TokenClassifier(_encoder(args), args["num_classes"], pooled=args["global_pool"])


def build_second(arguments: Mapping[str, Any]) -> TokenClassifier:
    """Make version 2 of arguments of its constructor; it has no classifier. Errors as ``build``."""
    args = read_arguments(
        arguments,
        of="DOFAViT",
        defaults={
            "img_size": 224, "patch_size": 14, "embed_dim": 768, "depth": 24, "num_heads": None, "wv_planes": 128,
            "mlp_ratio": 4.0,
        },
        ignored=("drop_rate", "out_indices", "drop_path_rate", "num_classes", "global_pool"),
    )  # fmt: skip
    return TokenClassifier(_encoder(args | {"dynamic_embed_dim": args["wv_planes"]}, layer_scale=1e-5), 0)


def _encoder(args: Mapping[str, Any], layer_scale: float | None = None) -> TokenEncoder:
    return dofa_encoder(
        args["embed_dim"],
        patch=args["patch_size"],
        depth=args["depth"],
        heads=heads_of(args["embed_dim"], args["num_heads"], "num_heads"),
        mlp_ratio=args["mlp_ratio"],
        size=args["img_size"] // args["patch_size"],
        code_dim=args["dynamic_embed_dim"],
        layer_scale=layer_scale,
    )


def to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return published tensors by our names. Gradients pass."""
    return rename(split_positions(state), _NAMES)


def load(module: nn.Module, state: Mapping[str, Tensor]) -> Coverage:
    """Copy a published state dict into a module of ``build``.

    The files of the authors hold an encoder alone, and parts of its pretraining: these are left out, and the norm behind the mean
    stays at its initial values, which scale by nothing. The coverage says so.
    """
    assert isinstance(module, TokenClassifier)
    own_norm = module.norm is None or not (_pretrained(state) or "fc_norm.weight" in state)
    dropped = tuple(name for name in state if re.search(_OF_PRETRAINING, name) or (name.startswith("norm.") and not own_norm))
    ours = to_ours({name: tensor for name, tensor in state.items() if name not in dropped})
    untouched: tuple[str, ...] = ()
    if module.norm is not None and not any(name.startswith("norm.") for name in ours):
        untouched = tuple(f"norm.{name}" for name in module.norm.state_dict())
        ours |= {f"norm.{name}": tensor for name, tensor in module.norm.state_dict().items()}
    coverage = load_renamed(module, state, ours)
    lacking = sum(module.get_parameter(name).numel() for name in untouched)
    return replace(
        coverage,
        tensors=coverage.tensors - len(untouched),
        elements=coverage.elements - lacking,
        renamed=coverage.renamed - len(untouched),
        dropped=dropped,
        untouched=untouched,
    )


def load_second(module: nn.Module, state: Mapping[str, Tensor]) -> Coverage:
    """Copy a state dict of version 2 into a module of ``build_second``; its outer norm, which nothing uses, is left out."""
    dropped = tuple(name for name in state if name.startswith("norm."))
    inner = {name.removeprefix("model."): tensor for name, tensor in state.items() if name not in dropped}
    return replace(load_renamed(module, state, to_ours(inner)), dropped=dropped)


# Sentinel-2 as the authors give it: images of SatlasPretrain, 8 bits at the top of the atmosphere (B02, B03 and B04 those of the
# colour picture, full at a reflectance of 0.3558; the others full at 0.816), and their mean and deviation. Radar is no calibrated
# quantity there, and the statistics of other images of the pretraining are not published.
_BANDS = (490.0, 560.0, 665.0, 705.0, 740.0, 783.0, 842.0, 1610.0, 2190.0)
_MEAN = (126.63977424, 114.81779093, 114.1099739, 84.33539309, 97.84789168, 103.94461911, 101.435633, 72.32804172, 56.66528851)
_DEVIATION = (67.42465279, 69.96844919, 77.84352553, 64.57022983, 61.72545487, 61.34187099, 60.29744676, 47.88519516, 42.55886798)
_SENTINEL2 = RangeTable(
    _BANDS,
    (0.0,) * len(_BANDS),
    (0.3558,) * 3 + (0.816,) * 6,
    tuple(m / 255 for m in _MEAN),
    tuple(d / 255 for d in _DEVIATION),
)


def scale(arguments: Mapping[str, Any]) -> SensorScale:
    """Return that of Sentinel-2; other optical bands take what lies between its own. Radar is refused when it comes."""
    return SensorScale({"sentinel-2": _SENTINEL2}, "sentinel-2")


SYSTEMS = (
    System("DOFA", "CC-BY-4.0", infer, build, load, encoder_of, scale, image_size),
    System("DOFA v2", "CC-BY-4.0", infer_second, build_second, load_second, encoder_of, scale, image_size),
)
