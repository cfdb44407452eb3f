"""DLGSANet of NeonLeexiang/DLGSANet."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ....core.layers.transposed_attention import ScoreActivation
from ....core.weights.arguments import read_arguments
from ....core.weights.layout import Layout
from ..dlgsanet import DLGSANet
from ..heads import Upsampler
from .swinir import FRAME, count, shuffle_scale

_EVEN, _ODD = r"(\.body\.\d*[02468])", r"(\.body\.\d*[13579])"  # local and global blocks by turns
LAYOUT = Layout(
    rules=(
        (r"^first\.", "overlap_embed.0.proj."),
        *FRAME,
        (r"^deep\.", "deep_feature_extraction."),
        (rf"{_EVEN}\.norm(\d)\.", r"\1.norm\2.body."),
        (rf"{_ODD}\.norm1\.", r"\1.norm3.body."),
        (rf"{_ODD}\.norm2\.", r"\1.norm4.body."),
        (rf"{_EVEN}\.mixer\.", r"\1.IDynamicDWConv."),
        (rf"{_ODD}\.mixer\.", r"\1.restormer_attn."),
        (rf"{_EVEN}\.channel_mixer\.", r"\1.IDynamic_ffn."),
        (rf"{_ODD}\.channel_mixer\.", r"\1.restormer_ffn."),
        (r"\.IDynamicDWConv\.value\.", ".IDynamicDWConv.conv0."),
        (r"\.IDynamicDWConv\.proj\.", ".IDynamicDWConv.conv1."),
        (r"\.reduce\.", ".conv.conv1.0."),
        (r"\.context\.", ".conv.conv1.1."),
        (r"\.expand\.", ".conv.conv2.0."),
        (r"\.qkv\.linear\.", ".qkv."),
        (r"\.qkv\.conv\.", ".qkv_dwconv."),
        (r"\.restormer_attn\.proj\.", ".restormer_attn.project_out."),
        (r"\.fc1\.linear\.", ".project_in."),
        (r"\.fc1\.conv\.", ".dwconv."),
        (r"\.fc2\.", ".project_out."),
    ),
    pointwise=r"\.(value|reduce|expand|proj|linear|fc2)\.weight$",
)
_LOCAL, _GLOBAL = "deep_feature_extraction.0.body.0.", "deep_feature_extraction.0.body.1."
_TILES = {2: 96, 3: 72}  # by scale; else 48
_EDGE_TILE = 48  # which the official blocks with softmax have whatever they are told


def infer(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """See ``Architecture``. The shapes tell neither the activation nor the tile: they are those of the published networks."""
    first, context = state.get("overlap_embed.0.proj.weight"), state.get(f"{_LOCAL}IDynamicDWConv.conv.conv1.1.weight")
    expand, temperature = (
        state.get(f"{_LOCAL}IDynamicDWConv.conv.conv2.0.weight"),
        state.get(f"{_GLOBAL}restormer_attn.temperature"),
    )
    hidden = state.get(f"{_LOCAL}IDynamic_ffn.project_out.weight")
    if first is None or context is None or expand is None or temperature is None or hidden is None:
        return None
    dim, in_channels = first.shape[:2]
    kernel = context.shape[-1]
    upsampler, scale = "", 1
    if "conv_before_upsample.0.weight" in state:
        upsampler, scale = "pixelshuffle", shuffle_scale(state)
    elif "upsample.0.weight" in state:
        upsampler, scale = "pixelshuffledirect", math.isqrt(len(state["upsample.0.weight"]) // in_channels)
    return {
        "in_chans": in_channels,
        "dim": dim,
        "groups": count(state, "deep_feature_extraction.") - 1,
        "blocks": count(state, "deep_feature_extraction.0.body.") // 2,
        "buildblock_type": "sparseedge",
        "window_size": kernel,
        "idynamic_num_heads": dim * kernel**2 // len(expand),
        "restormer_num_heads": len(temperature),
        "tlc_kernel": _TILES.get(scale, 48),
        "activation": "relu",
        "upscale": scale,
        "img_range": 1.0,
        "upsampler": upsampler,
    }


def build(arguments: Mapping[str, Any]) -> DLGSANet:
    """See ``Architecture``. "edge" blocks have a softmax, "sparseedge" blocks the activation."""
    args = read_arguments(
        arguments,
        of="DLGSANet",
        defaults={
            "in_chans": 3,
            "dim": 60,
            "groups": 4,
            "blocks": 3,
            "buildblock_type": "edge",
            "window_size": 7,
            "idynamic_num_heads": 6,
            "restormer_num_heads": 6,
            "tlc_flag": True,
            "tlc_kernel": 48,
            "activation": "relu",
            "upscale": 4,
            "img_range": 1.0,
            "upsampler": "",
        },
        only={
            "idynamic": (True,),
            "idynamic_ffn_type": ("GDFN",),
            "restormer_ffn_type": ("GDFN",),
            "idynamic_ffn_expansion_factor": (2,),
            "restormer_ffn_expansion_factor": (2,),
            "body_norm": (False,),
        },
        ignored=("input_resolution",),
    )
    kind = args["buildblock_type"]
    if kind not in ("edge", "sparseedge"):
        raise ValueError(f"DLGSANet: buildblock_type is {kind!r}, allowed is 'edge' or 'sparseedge'")
    activation: ScoreActivation = "softmax" if kind == "edge" else args["activation"]
    names: dict[str | None, Upsampler] = {None: "none", "": "none"}
    return DLGSANet(
        args["upscale"],
        args["dim"],
        groups=args["groups"],
        pairs=args["blocks"],
        kernel=args["window_size"],
        group_channels=args["idynamic_num_heads"],
        heads=args["restormer_num_heads"],
        activation=activation,
        tile=(_EDGE_TILE if kind == "edge" else args["tlc_kernel"]) if args["tlc_flag"] else None,
        upsampler=names.get(args["upsampler"], args["upsampler"]),
        in_channels=args["in_chans"],
        image_range=args["img_range"],
    )
