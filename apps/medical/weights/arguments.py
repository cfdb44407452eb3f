"""The constructor's arguments of a Swin UNETR from the shapes of its tensors."""

import itertools
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ....core.weights.arguments import ratio
from ..swin_encoder import relative_position_index

_BLOCK = re.compile(r"swinViT\.layers(\d)\.0\.blocks\.(\d+)\.")


def infer_arguments(state: Mapping[str, Tensor], name: str) -> dict[str, Any]:
    """Tell the arguments of MONAI's constructor that shapes tell, by the names that MONAI gives the tensors.

    What they do not tell is left out: ``normalize``, the rates of dropout, checkpointing, and the order in which patches are
    merged. Of an encoder alone, ``in_channels`` is known, and ``out_channels`` is not.

    Args:
        state: tensors by MONAI's names.
        name: of their source, for errors.

    Raises:
        ValueError: if a tensor that is needed for it is not there, or shapes contradict each other.
    """
    try:
        return _inferred(state)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise ValueError(f"{name} is no whole Swin UNETR: a tensor is missing or of another shape ({error})") from error


def _inferred(state: Mapping[str, Tensor]) -> dict[str, Any]:
    patches = state["swinViT.patch_embed.proj.weight"]
    dim, axes = len(patches), patches.ndim - 2
    places = {(int(m[1]), int(m[2])) for key in state if (m := _BLOCK.match(key))}
    stages = sorted({stage for stage, _ in places})
    first = [f"swinViT.layers{stage}.0.blocks.0." for stage in stages]
    tables = [state[f"{prefix}attn.relative_position_bias_table"] for prefix in first]
    arguments: dict[str, Any] = {
        "in_channels": patches.shape[1],
        "spatial_dims": axes,
        "patch_size": patches.shape[2],
        "feature_size": dim,
        "depths": [sum(place[0] == stage for place in places) for stage in stages],
        "num_heads": [table.shape[1] for table in tables],
        "window_size": _window(len(tables[0]), state.get(f"{first[0]}attn.relative_position_index"), axes),
        "qkv_bias": f"{first[0]}attn.qkv.bias" in state,
        "mlp_ratio": ratio(len(state[f"{first[0]}mlp.linear1.weight"]), dim),
        "patch_norm": "swinViT.patch_embed.norm.weight" in state,
        "use_v2": any(key.startswith("swinViT.layers1c.") for key in state),
    }
    if "out.conv.conv.weight" in state:
        arguments["out_channels"] = len(state["out.conv.conv.weight"])
    if "encoder1.layer.norm1.running_mean" in state:
        arguments["norm_name"] = "batch"
    elif "encoder1.layer.norm1.weight" in state:  # a group norm would look alike
        arguments["norm_name"] = ("instance", {"affine": True})
    return arguments


def _window(rows: int, index: Tensor | None, axes: int) -> list[int]:
    """Tell the window from the rows of the bias table, (2 w - 1) for each axis, and the stored index, if it is there."""
    tokens = None if index is None else len(index)
    odd = [n for n in range(1, rows + 1, 2) if rows % n == 0]
    for sides in itertools.product(odd, repeat=axes - 1):
        last, rest = divmod(rows, torch.Size(sides).numel())
        window = tuple((side + 1) // 2 for side in (*sides, last))
        if rest or not last % 2:
            continue
        if index is None:
            if len(set(window)) == 1:
                return list(window)
        elif torch.Size(window).numel() == tokens and torch.equal(index.long().cpu(), relative_position_index(window)):
            return list(window)
    told = "and no relative_position_index tells more" if index is None else f"and an index of {tokens} tokens"
    raise ValueError(f"a table of {rows} relative positions {told}: no window of {axes} axes has them")
