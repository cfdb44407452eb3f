"""The layout of swz30/Restormer."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ....core.weights.arguments import ratio, read_arguments
from ....core.weights.layout import Layout
from ..restormer import Restormer

_LEVELS = 4  # the official network has as many, and a name for each
LAYOUT = Layout(
    rules=[
        (r"^embed\.", "patch_embed.proj."),
        (rf"^encoders\.{_LEVELS - 1}\.", "latent."),
        *[(rf"^encoders\.{i}\.", f"encoder_level{i + 1}.") for i in range(_LEVELS - 1)],
        *[(rf"^decoders\.{i}\.", f"decoder_level{i + 1}.") for i in range(_LEVELS - 1)],
        *[(rf"^downs\.{i}\.", f"down{i + 1}_{i + 2}.body.0.") for i in range(_LEVELS - 1)],
        *[(rf"^ups\.{i}\.", f"up{i + 2}_{i + 1}.body.0.") for i in range(_LEVELS - 1)],
        *[(rf"^reduces\.{i}\.", f"reduce_chan_level{i + 2}.") for i in range(_LEVELS - 2)],
        (r"^skip\.", "skip_conv."),
        (r"\.norm(\d)\.", r".norm\1.body."),
        (r"\.mixer\.qkv\.linear\.", ".attn.qkv."),
        (r"\.mixer\.qkv\.conv\.", ".attn.qkv_dwconv."),
        (r"\.mixer\.proj\.", ".attn.project_out."),
        (r"\.mixer\.", ".attn."),
        (r"\.channel_mixer\.fc1\.linear\.", ".ffn.project_in."),
        (r"\.channel_mixer\.fc1\.conv\.", ".ffn.dwconv."),
        (r"\.channel_mixer\.fc2\.", ".ffn.project_out."),
    ],
    pointwise=r"(\.(linear|proj|fc2)|^reduces\.\d+|^skip)\.weight$",
)
_DEFAULTS = {
    "inp_channels": 3,
    "out_channels": 3,
    "dim": 48,
    "num_blocks": (4, 6, 6, 8),
    "num_refinement_blocks": 4,
    "heads": (1, 2, 4, 8),
    "ffn_expansion_factor": 2.66,
    "bias": False,
    "LayerNorm_type": "WithBias",
    "dual_pixel_task": False,
}


def infer(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Tell the arguments of the official Restormer from a state dict; None if it is another network's."""
    embed, output = state.get("patch_embed.proj.weight"), state.get("output.weight")
    stages = [*(f"encoder_level{i}" for i in range(1, _LEVELS)), "latent"]
    temperatures = [state.get(f"{stage}.0.attn.temperature") for stage in stages]
    hidden = state.get("encoder_level1.0.ffn.project_out.weight")
    if embed is None or output is None or hidden is None:
        return None
    heads = [len(t) for t in temperatures if t is not None]
    if len(heads) < _LEVELS:
        return None

    def count(stage: str) -> int:
        return len({match[1] for key in state if (match := re.match(rf"^{stage}\.(\d+)\.", key))})

    return {
        "inp_channels": embed.shape[1],
        "out_channels": len(output),
        "dim": len(embed),
        "num_blocks": [count(stage) for stage in stages],
        "num_refinement_blocks": count("refinement"),
        "heads": heads,
        "ffn_expansion_factor": _ratio(state, len(embed)),
        "bias": "encoder_level1.0.attn.qkv.bias" in state,
        "LayerNorm_type": "WithBias" if "encoder_level1.0.norm1.body.bias" in state else "BiasFree",
        "dual_pixel_task": "skip_conv.weight" in state,
    }


def _ratio(state: Mapping[str, Tensor], dim: int) -> float:
    """A factor that gives the hidden channels of every resolution, rounded down: the published one if it does."""
    hidden = {
        dim * 2**i: state[f"{stage}.0.ffn.project_out.weight"].shape[1]
        for i, stage in enumerate(("encoder_level1", "encoder_level2", "encoder_level3", "latent"))
    }
    published = 2.66
    if all(int(channels * published) == count for channels, count in hidden.items()):
        return published
    return max(ratio(count, channels) for channels, count in hidden.items())


def build(arguments: Mapping[str, Any]) -> Restormer:
    """Make a Restormer of arguments of the official constructor."""
    args = read_arguments(arguments, of="Restormer", defaults=_DEFAULTS)
    norms = {"WithBias": "layer", "BiasFree": "deviation"}
    if args["LayerNorm_type"] not in norms or len(args["num_blocks"]) != _LEVELS:
        told = f"LayerNorm_type is {args['LayerNorm_type']!r} and num_blocks {args['num_blocks']}"
        raise ValueError(f"Restormer: {told}, allowed are {' or '.join(norms)} and {_LEVELS} numbers")
    return Restormer(
        args["dim"],
        args["num_blocks"],
        heads=args["heads"],
        refinement=args["num_refinement_blocks"],
        ratio=args["ffn_expansion_factor"],
        norm="layer" if args["LayerNorm_type"] == "WithBias" else "deviation",
        bias=args["bias"],
        in_channels=args["inp_channels"],
        out_channels=args["out_channels"],
        dual_pixel=args["dual_pixel_task"],
    )
