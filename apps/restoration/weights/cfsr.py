"""The layout of Aitical/CFSR, whose published networks have their edge detectors folded in."""

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ....core.weights.arguments import read_arguments
from ....core.weights.layout import Layout
from ..cfsr import CFSR

LAYOUT = Layout(
    rules=[
        (r"^groups\.(\d+)\.proj\.", r"layers.\1.conv."),
        (r"^groups\.", "layers."),
        (r"\.norm1\.", ".attn.norm."),
        (r"\.norm2\.", ".mlp.norm."),
        (r"\.mixer\.context\.", ".attn.a.0."),
        (r"\.mixer\.conv\.", ".attn.a.2.lkb_reparam."),
        (r"\.mixer\.value\.", ".attn.v."),
        (r"\.mixer\.proj\.", ".attn.proj."),
        (r"\.channel_mixer\.conv\.", ".mlp.pos."),
        (r"\.channel_mixer\.", ".mlp."),
        (r"\.scale(\d)$", r".layer_scale_\1"),
        (r"^upsample\.", "upsample.0."),
        (r"^last\.", "conv_last."),
    ],
    pointwise=r"(\.(proj|context|value)|\.fc\d)\.weight$",
)


def infer(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Tell the arguments of the official CFSR from a state dict; None if it is another network's."""
    block = "layers.0.blocks.0."
    large, first, fc1 = (
        state.get(key) for key in (f"{block}attn.a.2.lkb_reparam.weight", "conv_first.weight", f"{block}mlp.fc1.weight")
    )
    last = state.get("upsample.0.weight", state.get("conv_last.weight"))
    if large is None or first is None or fc1 is None or last is None:
        return None
    blocks = {match.groups() for key in state if (match := re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", key))}
    groups = sorted({int(group) for group, _ in blocks})
    return {
        "in_chans": first.shape[1],
        "embed_dim": len(first),
        "depths": [sum(int(group) == g for group, _ in blocks) for g in groups],
        "dw_size": large.shape[-1],
        "mlp_ratio": len(fc1) // len(first),
        "upscale": math.isqrt(len(last) // first.shape[1]),
        "img_range": 1.0,
        "upsampler": "pixelshuffledirect" if "upsample.0.weight" in state else "",
    }


def build(arguments: Mapping[str, Any]) -> CFSR:
    """Make a CFSR of arguments of the official constructor; without its upsampler the official network leaves out the scale."""
    args = read_arguments(
        arguments,
        of="CFSR",
        defaults={
            "in_chans": 3,
            "embed_dim": 96,
            "depths": (6, 6, 6, 6),
            "dw_size": 3,
            "mlp_ratio": 4,
            "upscale": 2,
            "upsampler": "",
        },
        only={"img_range": (1.0,)},
        ignored=("small_kernel",),  # in the published option files; the constructor does not know it
    )
    direct = args["upsampler"] == "pixelshuffledirect"
    return CFSR(
        args["embed_dim"],
        args["depths"],
        scale=args["upscale"] if direct else 1,
        in_channels=args["in_chans"],
        kernel=args["dw_size"],
        mlp_ratio=args["mlp_ratio"],
        residual=not direct,
    )
