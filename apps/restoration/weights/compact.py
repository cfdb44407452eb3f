"""The layout of SRVGGNetCompact of xinntao/Real-ESRGAN."""

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ....core.weights.arguments import read_arguments
from ....core.weights.layout import Layout
from ..compact import Compact

LAYOUT = Layout(rules=[(r"^convolutions\.", "body.")])


def infer(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Tell the arguments of the official SRVGGNetCompact from a state dict; None if it is another network's."""
    numbers = [int(match[1]) for key in state if (match := re.fullmatch(r"body\.(\d+)\.weight", key))]
    last = max(numbers, default=0)
    expected = {f"body.{n}.{kind}" for n in range(last + 1) for kind in (("weight", "bias") if n % 2 == 0 else ("weight",))}
    if last < 4 or last % 2 or set(state) != expected:
        return None
    # Convolutions are even, with a parametric ReLU after each: the other activations of the official network have no weights.
    if any(state[f"body.{n}.weight"].ndim != (1 if n % 2 else 4) for n in range(last + 1)):
        return None
    width, channels = state["body.0.weight"].shape[:2]
    scale = math.isqrt(len(state[f"body.{last}.weight"]) // channels)
    return {
        "num_in_ch": channels,
        "num_out_ch": channels,
        "num_feat": width,
        "num_conv": last // 2 - 1,
        "upscale": scale,
        "act_type": "prelu",
    }


def build(arguments: Mapping[str, Any]) -> Compact:
    """Make a Compact of arguments of the official constructor."""
    args = read_arguments(
        arguments,
        of="SRVGGNetCompact",
        defaults={"num_in_ch": 3, "num_out_ch": 3, "num_feat": 64, "num_conv": 16, "upscale": 4},
        only={"act_type": ("prelu",)},
    )
    if args["num_in_ch"] != args["num_out_ch"]:
        raise ValueError(f"SRVGGNetCompact: num_in_ch {args['num_in_ch']} and num_out_ch {args['num_out_ch']} differ")
    return Compact(args["upscale"], args["num_in_ch"], width=args["num_feat"], depth=args["num_conv"])
