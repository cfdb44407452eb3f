"""HAT of XPixelGroup/HAT."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ....core.weights.arguments import ratio, read_arguments
from ....core.weights.layout import Layout
from ..hat import HAT
from .swinir import BLOCK, FRAME, GROUP, check_image, count, shuffle_scale
from .windows import check_buffer, position_index, window_of

_BLOCK, _OVERLAP = "layers.0.residual_group.blocks.0.", "layers.0.residual_group.overlap_attn."
_TABLE = "relative_position_bias_table"
_WINDOWS = f"{_BLOCK}attn.{_TABLE}"


def _sizes(state: Mapping[str, Tensor]) -> tuple[int, int]:
    """Return the window on an axis, and that of overlapping keys, from the shapes of the bias tables."""
    window = window_of(len(state[_WINDOWS]))
    return window, math.isqrt(len(state[f"{_OVERLAP}{_TABLE}"])) - window + 1


@dataclass(frozen=True)
class HATLayout(Layout):
    """The layout of HAT, with its two buffers, and with the rows of bias tables of overlapping windows in official order.

    The official index counts those rows by key - query from an origin of its own, so that some are negative and count from the
    end; ours by query - key. Row r is row w (s + 1) - r there, modulo their number s^2, for windows of w: and the same way back.
    """

    def to_ours(self, module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if _WINDOWS in state and f"{_OVERLAP}{_TABLE}" in state:
            window, keys = _sizes(state)
            for name, size in (("SA", window), ("OCA", keys)):
                if (found := state.get(f"relative_position_index_{name}")) is not None:
                    check_buffer(f"relative_position_index_{name}", found, position_index(window, size))
            state = _turned(state, window)
        return super().to_ours(module, state)

    def to_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        published = super().to_published(state)
        return _turned(published, _sizes(published)[0])

    def buffers(self, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
        window, keys = _sizes(published)
        return {f"relative_position_index_{n}": position_index(window, m) for n, m in (("SA", window), ("OCA", keys))}


def _turned(state: Mapping[str, Tensor], window: int) -> dict[str, Tensor]:
    turned = dict(state)
    for name, table in state.items():
        if name.endswith(f"overlap_attn.{_TABLE}"):
            rows = torch.arange(len(table), device=table.device)
            turned[name] = table[(window * (math.isqrt(len(table)) + 1) - rows) % len(table)]
    return turned


def infer(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """See ``Architecture``. The shapes do not tell ``conv_scale`` and ``img_range``, which all published checkpoints share."""
    cab = f"{_BLOCK}conv_block.cab."
    needed = {
        "conv_first.weight",
        "conv_after_body.weight",
        "conv_before_upsample.0.weight",
        "patch_embed.norm.weight",
        _WINDOWS,
        f"{_BLOCK}mlp.fc1.weight",
        f"{cab}0.weight",
        f"{cab}3.attention.1.weight",
        f"{_OVERLAP}{_TABLE}",
    }
    if not needed <= state.keys() or "absolute_pos_embed" in state:
        return None
    dim, in_channels = state["conv_first.weight"].shape[:2]
    layers = range(count(state, "layers."))
    window, keys = _sizes(state)
    return {
        "upscale": shuffle_scale(state),
        "in_chans": in_channels,
        "embed_dim": dim,
        "depths": [count(state, f"layers.{i}.residual_group.blocks.") for i in layers],
        "num_heads": [state[f"layers.{i}.residual_group.overlap_attn.{_TABLE}"].shape[1] for i in layers],
        "window_size": window,
        "compress_ratio": dim // len(state[f"{cab}0.weight"]),
        "squeeze_factor": dim // len(state[f"{cab}3.attention.1.weight"]),
        "overlap_ratio": ratio(keys - window, window),
        "mlp_ratio": ratio(len(state[f"{_BLOCK}mlp.fc1.weight"]), dim),
        "qkv_bias": f"{_BLOCK}attn.qkv.bias" in state,
        "conv_scale": 0.01,
        "img_range": 1.0,
        "upsampler": "pixelshuffle",
    }


def build(arguments: Mapping[str, Any]) -> HAT:
    """See ``Architecture``."""
    args = read_arguments(
        arguments,
        of="HAT",
        defaults={
            "img_size": 64,
            "in_chans": 3,
            "embed_dim": 96,
            "depths": (6, 6, 6, 6),
            "num_heads": (6, 6, 6, 6),
            "window_size": 7,
            "compress_ratio": 3,
            "squeeze_factor": 30,
            "conv_scale": 0.01,
            "overlap_ratio": 0.5,
            "mlp_ratio": 4.0,
            "qkv_bias": True,
            "drop_path_rate": 0.1,
            "upscale": 2,
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
            "num_feat": (64,),
        },
        ignored=("use_checkpoint",),
    )
    window, dim = args["window_size"], args["embed_dim"]
    check_image(args["img_size"], window, of="HAT")
    beyond = int(args["overlap_ratio"] * window)
    if beyond % 2:
        raise ValueError(f"HAT: overlap_ratio {args['overlap_ratio']} makes windows of {window} larger by {beyond}, which is odd")
    return HAT(
        args["upscale"],
        dim,
        depths=args["depths"],
        heads=args["num_heads"],
        window=window,
        overlap=beyond // 2,
        narrow=dim // args["compress_ratio"],
        squeezed=dim // args["squeeze_factor"],
        conv_scale=args["conv_scale"],
        mlp_ratio=args["mlp_ratio"],
        in_channels=args["in_chans"],
        image_range=args["img_range"],
        qkv_bias=args["qkv_bias"],
        drop_path=args["drop_path_rate"],
    )


_ATTENTION = r"^groups\.(\d+)\.blocks\.overlap\."
LAYOUT = HATLayout(
    rules=(
        (rf"{_ATTENTION}mixer\.bias_table$", rf"layers.\1.residual_group.overlap_attn.{_TABLE}"),
        (rf"{_ATTENTION}(mixer\.)?", r"layers.\1.residual_group.overlap_attn."),
        *FRAME,
        *GROUP,
        *BLOCK,
        (r"\.channels\.conv1\.", ".conv_block.cab.0."),
        (r"\.channels\.conv2\.", ".conv_block.cab.2."),
        (r"\.channels\.squeeze\.", ".conv_block.cab.3.attention.1."),
        (r"\.channels\.excite\.", ".conv_block.cab.3.attention.3."),
    ),
    computed=r"^relative_position_index_(SA|OCA)$",
    pointwise=r"\.channels\.(squeeze|excite)\.weight$",
)
