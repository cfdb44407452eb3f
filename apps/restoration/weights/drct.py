"""DRCT of ming053l/DRCT."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ....core.weights.arguments import ratio, read_arguments
from ..drct import DRCT
from ..swinir import skip_rates
from .swinir import BLOCK, FRAME, check_image, count, shuffle_scale
from .windows import WindowLayout, window_of

_TABLE = "swin1.attn.relative_position_bias_table"
_DEPTH = 6  # what all published settings say, though a group has five blocks; it only spaces the rates of skipping


def infer(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """See ``Architecture``. The shapes do not tell ``img_range``, which is 1 in all published checkpoints."""
    needed = {
        "conv_first.weight",
        "conv_after_body.weight",
        "conv_before_upsample.0.weight",
        "patch_embed.norm.weight",
        f"layers.0.{_TABLE}",
        "layers.0.swin1.mlp.fc1.weight",
        "layers.0.swin5.mlp.fc1.weight",
        "layers.0.adjust1.weight",
        "layers.0.adjust5.weight",
    }
    if not needed <= state.keys() or "absolute_pos_embed" in state:
        return None
    dim, in_channels = state["conv_first.weight"].shape[:2]
    layers = range(count(state, "layers."))
    return {
        "upscale": shuffle_scale(state),
        "in_chans": in_channels,
        "embed_dim": dim,
        "depths": [_DEPTH for _ in layers],
        "num_heads": [state[f"layers.{i}.{_TABLE}"].shape[1] for i in layers],
        "window_size": window_of(len(state[f"layers.0.{_TABLE}"])),
        "mlp_ratio": ratio(len(state["layers.0.swin1.mlp.fc1.weight"]), dim),
        "gc": len(state["layers.0.adjust1.weight"]),
        "qkv_bias": "layers.0.swin1.attn.qkv.bias" in state,
        "img_range": 1.0,
        "upsampler": "pixelshuffle",
    }


def build(arguments: Mapping[str, Any]) -> DRCT:
    """See ``Architecture``."""
    args = read_arguments(
        arguments,
        of="DRCT",
        defaults={
            "img_size": 64,
            "in_chans": 3,
            "embed_dim": 180,
            "depths": (_DEPTH,) * 6,
            "num_heads": (6,) * 6,
            "window_size": 16,
            "mlp_ratio": 2.0,
            "gc": 32,
            "qkv_bias": True,
            "drop_path_rate": 0.1,
            "upscale": 1,
            "img_range": 1.0,
        },
        only={
            "patch_size": (1,),
            "qk_scale": (None,),
            "drop_rate": (0, 0.0),
            "attn_drop_rate": (0, 0.0),
            "ape": (False,),
            "patch_norm": (True,),
            "upsampler": ("pixelshuffle",),
            "resi_connection": ("1conv",),
        },
        # The official constructor takes the first four and reads none of them.
        ignored=("compress_ratio", "squeeze_factor", "conv_scale", "overlap_ratio", "use_checkpoint"),
    )
    check_image(args["img_size"], args["window_size"], of="DRCT")
    return DRCT(
        args["upscale"],
        args["embed_dim"],
        heads=args["num_heads"],
        window=args["window_size"],
        growth=args["gc"],
        mlp_ratio=args["mlp_ratio"],
        in_channels=args["in_chans"],
        image_range=args["img_range"],
        qkv_bias=args["qkv_bias"],
        drop_path=[rates[0] for rates in skip_rates(args["drop_path_rate"], args["depths"])],
    )


# Blocks and convolutions are counted from 1 there.
_COUNTED = tuple(
    rule
    for i in range(5)
    for rule in (
        (rf"^groups\.(\d+)\.blocks\.{i}\.", rf"layers.\1.swin{i + 1}."),
        (rf"^groups\.(\d+)\.adjusts\.{i}\.", rf"layers.\1.adjust{i + 1}."),
    )
)
LAYOUT = WindowLayout(
    rules=(*_COUNTED, (r"^groups\.(\d+)\.last\.", r"layers.\1.adjust5."), *FRAME, *BLOCK),
    computed=r"\.(attn\.relative_position_index|attn_mask)$",
    pointwise=r"^groups\.\d+\.(adjusts\.\d|last)\.weight$",
    shifted=r"\.swin[24]\.$",
)
