"""MambaIR of csguoh/MambaIR: the networks for super-resolution, noise and JPEG."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ....core.weights.arguments import ratio, read_arguments
from ....core.weights.layout import Layout
from ..heads import Upsampler
from ..mambair import MambaIR
from .swinir import FRAME, count, shuffle_scale

_FIRST = "layers.0.residual_group.blocks.0."
_ROUTES = 4  # of the scans
_SCAN = (
    (r"\.scan\.conv\.", ".scan.conv2d."),
    (r"\.scan\.x_proj$", ".scan.x_proj_weight"),
    (r"\.scan\.dt_proj$", ".scan.dt_projs_weight"),
    (r"\.scan\.dt_bias$", ".scan.dt_projs_bias"),
    (r"\.scan\.A_log$", ".scan.A_logs"),
    (r"\.scan\.D$", ".scan.Ds"),
    (r"\.scan\.refine\.0\.", ".scan.out_norm."),
    (r"\.scan\.", ".self_attention."),
)
_BLOCK = (
    (r"\.norm([12])\.", r".ln_\1."),
    (r"\.scale1$", ".skip_scale"),
    (r"\.scale2$", ".skip_scale2"),
    (r"\.convs\.", ".conv_blk.cab."),
    (r"\.squeeze\.", ".attention.1."),
    (r"\.excite\.", ".attention.3."),
)

LAYOUT = Layout(
    rules=(
        *FRAME,
        (r"^groups\.(\d+)\.blocks\.", r"layers.\1.residual_group.blocks."),
        (r"^groups\.", "layers."),
        *_SCAN,
        *_BLOCK,
    ),
    pointwise=r"\.convs\.([03]|\d\.squeeze|\d\.excite)\.weight$",
    merged=r"\.scan\.(A_log|D)$",
)


def _head(state: Mapping[str, Tensor], in_channels: int) -> tuple[str, int]:
    """Return the official name of the head and its scale."""
    if "conv_before_upsample.0.weight" in state:
        return "pixelshuffle", shuffle_scale(state)
    if "upsample.0.weight" in state:
        return "pixelshuffledirect", math.isqrt(len(state["upsample.0.weight"]) // in_channels)
    return "", 1


def infer(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """See ``Architecture``. The shapes do not tell ``img_range``, which is 1 in all published networks."""
    needed = {
        "conv_first.weight",
        *(f"{_FIRST}{name}" for name in ("skip_scale", "self_attention.A_logs", "conv_blk.cab.0.weight")),
    }
    joins = [kind for kind, end in (("1conv", "conv_after_body.weight"), ("3conv", "conv_after_body.4.weight")) if end in state]
    if not needed <= state.keys() or not joins:
        return None
    dim, in_channels = state["conv_first.weight"].shape[:2]
    rates = state[f"{_FIRST}self_attention.A_logs"]
    upsampler, scale = _head(state, in_channels)
    return {
        "upscale": scale,
        "in_chans": in_channels,
        "embed_dim": dim,
        "depths": [count(state, f"layers.{i}.residual_group.blocks.") for i in range(count(state, "layers."))],
        "d_state": rates.shape[-1],
        "mlp_ratio": ratio(len(rates) // _ROUTES, dim),
        "patch_norm": "patch_embed.norm.weight" in state,
        "img_range": 1.0,
        "upsampler": upsampler,
        "resi_connection": joins[0],
    }


def build(arguments: Mapping[str, Any]) -> MambaIR:
    """See ``Architecture``."""
    args = read_arguments(
        arguments,
        of="MambaIR",
        defaults={
            "in_chans": 3,
            "embed_dim": 96,
            "depths": (6, 6, 6, 6),
            "d_state": 16,
            "mlp_ratio": 2.0,
            "drop_path_rate": 0.1,
            "patch_norm": True,
            "upscale": 2,
            "img_range": 1.0,
            "upsampler": "",
            "resi_connection": "1conv",
        },
        only={"patch_size": (1,), "drop_rate": (0, 0.0)},
        ignored=("img_size", "window_size", "use_checkpoint"),
    )
    names: dict[str | None, Upsampler] = {None: "none", "": "none"}
    upsampler = names.get(args["upsampler"], args["upsampler"])
    return MambaIR(
        args["upscale"],
        args["embed_dim"],
        depths=args["depths"],
        state=args["d_state"],
        expand=args["mlp_ratio"],
        upsampler=upsampler,
        light=upsampler == "pixelshuffledirect",
        join=args["resi_connection"],
        in_channels=args["in_chans"],
        image_range=args["img_range"],
        embed_norm=args["patch_norm"],
        drop_path=args["drop_path_rate"],
    )
