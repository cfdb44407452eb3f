"""CATANet of EquationWalker/CATANet."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ....core.weights.arguments import read_arguments
from ....core.weights.layout import Layout
from ..catanet import CATANet
from .swinir import count

_QKV = ((r"\.query\.", ".to_q."), (r"\.key\.", ".to_k."), (r"\.value\.", ".to_v."))
LAYOUT = Layout(
    rules=(
        (r"^(first|last)\.", r"\1_conv."),
        (r"^ups\.", ""),
        (r"^blocks\.(\d+)\.2\.", r"mid_convs.\1."),
        (r"\.norm1\.", ".norm."),
        (r"\.norm2\.", ".mlp.norm."),
        (r"\.mixer\.means$", ".means"),
        (r"\.mixer\.known$", ".initted"),
        (r"\.mixer\.centre_key\.", ".irca_attn.to_k."),
        (r"\.mixer\.centre_value\.", ".irca_attn.to_v."),
        (r"\.mixer\.proj\.0\.", ".iasa_attn.proj."),
        (r"\.mixer\.proj\.1\.", ".conv1x1."),
        (r"\.mixer\.", ".iasa_attn."),
        (r"\.0\.channel_mixer\.", ".0.mlp.fn."),
        (r"\.attention\.norm\.", ".layer.0.norm."),
        (r"\.attention\.", ".layer.0.fn."),
        (r"\.1\.norm\.", ".1.layer.1.norm."),
        (r"\.1\.channel_mixer\.", ".1.layer.1.fn."),
        (r"\.fn\.conv\.", ".fn.dwconv.depthwise_conv.0."),
        *_QKV,
    ),
    pointwise=r"\.mixer\.proj\.1\.weight$",
)
# Class attributes of the official network, which its constructor does not know.
_SETTING = {
    "dim": 40,
    "block_num": 8,
    "qk_dim": 36,
    "mlp_dim": 96,
    "heads": 4,
    "patch_size": (16, 20, 24, 28, 16, 20, 24, 28),
}
_TOKENS = 4096  # of the crops of training: groups are as many tokens as a centre has of them


def infer(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """See ``Architecture``. The shapes do not tell the groups, which are those of the published networks."""
    first, means = state.get("first_conv.weight"), state.get("blocks.0.0.means")
    if first is None or means is None or "blocks.0.0.irca_attn.to_k.weight" not in state:
        return None
    dim, blocks = len(first), count(state, "blocks.")
    tokens = [len(state[f"blocks.{i}.0.means"]) for i in range(blocks)]
    up = state.get("upconv.weight")
    return {
        "in_chans": first.shape[1],
        "n_iters": [5] * blocks,
        "num_tokens": tokens,
        "group_size": [_TOKENS // n for n in tokens],
        "upscale": 4 if "upconv1.weight" in state else 1 if up is None else math.isqrt(len(up) // dim),
    }


def build(arguments: Mapping[str, Any]) -> CATANet:
    """See ``Architecture``. "setting" stands for the official class attribute of this name."""
    args = read_arguments(
        arguments,
        of="CATANet",
        defaults={
            "in_chans": 3,
            "n_iters": (5,) * 8,
            "num_tokens": (16, 32, 64, 128) * 2,
            "group_size": (256, 128, 64, 32) * 2,
            "upscale": 4,
            "setting": _SETTING,
        },
    )
    setting = read_arguments(args["setting"], of="CATANet", defaults=_SETTING)
    blocks = setting["block_num"]
    return CATANet(
        args["upscale"],
        setting["dim"],
        centres=args["num_tokens"][:blocks],
        group=args["group_size"][:blocks],
        patch=setting["patch_size"][:blocks],
        steps=args["n_iters"][:blocks],
        key_dim=setting["qk_dim"],
        hidden=setting["mlp_dim"],
        heads=setting["heads"],
        in_channels=args["in_chans"],
    )
