"""SwinIR of JingyunLiang/SwinIR."""

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ....core.weights.arguments import ratio, read_arguments
from ..heads import Upsampler
from ..swinir import SwinIR
from .windows import WindowLayout, window_of

# Names that ``ResidualNetwork`` and its heads share with the official networks on the same frame.
FRAME = (
    # Of three convolutions; there activations lie between them.
    (r"^(groups\.\d+\.)?conv\.2\.", r"\1conv.4."),
    (r"^(groups\.\d+\.)?conv\.1\.", r"\1conv.2."),
    (r"^first\.", "conv_first."),
    (r"^embed_norm\.", "patch_embed.norm."),
    (r"^conv\.", "conv_after_body."),
    (r"^head\.before\.", "conv_before_upsample.0."),
    (r"^head\.up\.", "upsample."),
    (r"^head\.ups\.", "conv_up"),
    (r"^head\.full\.", "conv_hr."),
    (r"^head\.last\.", "conv_last."),
)
GROUP = ((r"^groups\.(\d+)\.blocks\.", r"layers.\1.residual_group.blocks."), (r"^groups\.", "layers."))
BLOCK = (
    (r"\.mixer\.bias_table$", ".attn.relative_position_bias_table"),
    (r"\.mixer\.", ".attn."),
    (r"\.channel_mixer\.", ".mlp."),
)
_FIRST = "layers.0.residual_group.blocks.0."


def shuffle_scale(state: Mapping[str, Tensor]) -> int:
    """Return the scale of "pixelshuffle" from its convolutions, which are ``upsample.0``, ``upsample.2`` and so on."""
    steps = [len(t) // t.shape[1] for name, t in state.items() if re.fullmatch(r"upsample\.\d+\.weight", name)]
    return math.isqrt(math.prod(steps))


def count(state: Mapping[str, Tensor], prefix: str) -> int:
    """Return how many numbers follow a prefix in names."""
    return len({name[len(prefix) :].partition(".")[0] for name in state if name.startswith(prefix)})


def _head(state: Mapping[str, Tensor], in_channels: int) -> tuple[str, int]:
    """Return the official name of the head and its scale."""
    if "conv_up1.weight" in state:
        return "nearest+conv", 2 ** count({n: t for n, t in state.items() if n.endswith("weight")}, "conv_up")
    if "conv_before_upsample.0.weight" in state:
        return "pixelshuffle", shuffle_scale(state)
    if "upsample.0.weight" in state:
        return "pixelshuffledirect", math.isqrt(len(state["upsample.0.weight"]) // in_channels)
    return "", 1


def infer(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """See ``Architecture``. The shapes do not tell ``img_range``; only the networks for JPEG have windows of 7, and 255."""
    needed = {
        "conv_first.weight",
        f"{_FIRST}attn.relative_position_bias_table",
        f"{_FIRST}attn.qkv.weight",
        f"{_FIRST}mlp.fc1.weight",
    }
    joins = [kind for kind, end in (("1conv", "conv_after_body.weight"), ("3conv", "conv_after_body.4.weight")) if end in state]
    other = ("absolute_pos_embed", f"{_FIRST}conv_block.cab.0.weight", f"{_FIRST}attn.logit_scale")
    if not needed <= state.keys() or not joins or any(name in state for name in other):
        return None
    dim, in_channels = state["conv_first.weight"].shape[:2]
    layers = range(count(state, "layers."))
    table = ".attn.relative_position_bias_table"
    upsampler, scale = _head(state, in_channels)
    window = window_of(len(state[f"{_FIRST}attn.relative_position_bias_table"]))
    return {
        "upscale": scale,
        "in_chans": in_channels,
        "embed_dim": dim,
        "depths": [count(state, f"layers.{i}.residual_group.blocks.") for i in layers],
        "num_heads": [state[f"layers.{i}.residual_group.blocks.0{table}"].shape[1] for i in layers],
        "window_size": window,
        "mlp_ratio": ratio(len(state[f"{_FIRST}mlp.fc1.weight"]), dim),
        "qkv_bias": f"{_FIRST}attn.qkv.bias" in state,
        "patch_norm": "patch_embed.norm.weight" in state,
        "img_range": 255.0 if window == 7 and upsampler == "" else 1.0,
        "upsampler": upsampler,
        "resi_connection": joins[0],
    }


def build(arguments: Mapping[str, Any]) -> SwinIR:
    """See ``Architecture``."""
    args = read_arguments(
        arguments,
        of="SwinIR",
        defaults={
            "img_size": 64,
            "in_chans": 3,
            "embed_dim": 96,
            "depths": (6, 6, 6, 6),
            "num_heads": (6, 6, 6, 6),
            "window_size": 7,
            "mlp_ratio": 4.0,
            "qkv_bias": True,
            "qk_scale": None,
            "drop_path_rate": 0.1,
            "patch_norm": True,
            "upscale": 2,
            "img_range": 1.0,
            "upsampler": "",
            "resi_connection": "1conv",
        },
        only={"patch_size": (1,), "drop_rate": (0, 0.0), "attn_drop_rate": (0, 0.0), "ape": (False,)},
        ignored=("use_checkpoint",),
    )
    check_image(args["img_size"], args["window_size"], of="SwinIR")
    names: dict[str | None, Upsampler] = {None: "none", "": "none"}
    return SwinIR(
        args["upscale"],
        args["embed_dim"],
        depths=args["depths"],
        heads=args["num_heads"],
        window=args["window_size"],
        mlp_ratio=args["mlp_ratio"],
        upsampler=names.get(args["upsampler"], args["upsampler"]),
        join=args["resi_connection"],
        in_channels=args["in_chans"],
        image_range=args["img_range"],
        qkv_bias=args["qkv_bias"],
        embed_norm=args["patch_norm"],
        score_scale=args["qk_scale"],
        drop_path=args["drop_path_rate"],
    )


def check_image(size: int | tuple[int, int], window: int, *, of: str) -> None:
    """Refuse the size of training images for which the official constructors change the windows and do not shift them.

    Raises:
        ValueError: if one side fits into a window.
    """
    sides = (size, size) if isinstance(size, int) else size
    if min(sides) <= window:
        raise ValueError(f"{of}: img_size is {size}, expected more than the window of {window}: else it is not shifted")


LAYOUT = WindowLayout(
    rules=(*FRAME, *GROUP, *BLOCK),
    computed=r"\.(attn\.relative_position_index|attn_mask)$",
    shifted=r"\.blocks\.\d*[13579]\.$",
)
