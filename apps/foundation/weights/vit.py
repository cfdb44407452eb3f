"""What the layouts of vision transformers share: a table of positions whose first row is the class token's."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ....core.weights.arguments import ratio
from .system import depth_of


def vit_arguments(state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Any]:
    """Tell channels, depth, ratio and number of places on a side from a state dict; the latter as "side"."""
    dim = state[f"{prefix}cls_token"].shape[-1]
    return {
        "embed_dim": dim,
        "depth": depth_of(state, f"{prefix}blocks".replace(".", r"\.")),
        "mlp_ratio": ratio(len(state[f"{prefix}blocks.0.mlp.fc1.weight"]), dim),
        "side": math.isqrt(state[f"{prefix}pos_embed"].shape[1] - 1),
    }


def split_positions(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict, with ``cls_token`` and ``pos_embed`` as our prefix and table. Gradients pass."""
    ours = dict(state)
    if "cls_token" in ours and "pos_embed" in ours:
        table = ours.pop("pos_embed")[0]
        side = math.isqrt(len(table) - 1)
        ours["encoder.prefix"] = ours.pop("cls_token")[0] + table[:1]
        ours["encoder.position.table"] = table[1:].reshape(1, side, side, -1)
    return ours
