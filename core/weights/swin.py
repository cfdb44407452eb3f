"""Published Swin and Swin V2 checkpoints into our backbone."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from ..backbones.hierarchical import Pyramid
from ..backbones.swin import SwinSize, swin
from .arguments import ratio
from .head import load_with_head
from .load import Loaded, rename

# What can be computed, and is saved by some versions only.
_BUFFERS = r"(attn_mask|relative_position_index|relative_coords_table|attn\.k_bias)$"
_RULES: list[tuple[str, str | None]] = [
    (_BUFFERS, None),
    (r"^patch_embed\.proj\.", "stem.conv."),
    (r"^patch_embed\.norm\.", "stem.norm."),
    (r"^layers\.(\d+)\.blocks\.(\d+)\.", r"stages.\1.\2."),
    (r"^(stages.*)\.attn\.relative_position_bias_table$", r"\1.mixer.bias_table"),
    (r"^(stages.*)\.attn\.cpb_mlp\.0\.", r"\1.mixer.bias.fc1."),
    (r"^(stages.*)\.attn\.cpb_mlp\.2\.", r"\1.mixer.bias.fc2."),
    (r"^(stages.*)\.attn\.logit_scale$", r"\1.mixer.log_scale"),
    (r"^(stages.*)\.attn\.", r"\1.mixer."),
    (r"^(stages.*)\.mlp\.", r"\1.channel_mixer."),
    (r"^layers\.(\d+)\.downsample\.reduction\.", r"downs.\1.proj."),
    (r"^layers\.(\d+)\.downsample\.norm\.", r"downs.\1.norm."),
    (r"^head\.fc\.", "head."),
]


def load_swin(
    state: Mapping[str, Tensor],
    *,
    window: int | Sequence[int] | None = None,
    pretrained_window: Sequence[int] | None = None,
    border: Literal["partial", "zeros"] = "zeros",
) -> Loaded[Pyramid]:
    """Build the Swin that a state dict of timm (``swin_*``, ``swinv2_*``) or microsoft/Swin-Transformer belongs to, and load it.

    Depths, widths, heads, window, patch and options follow from the names and shapes of the tensors. With ``border="zeros"``,
    sizes that are no multiple of the window are treated as there in blocks that are not shifted. (timm shifts such images before
    it fills them up, which joins opposite edges of the image; that is not reproduced.)

    Args:
        state: the state dict, with or without a classifier. A checkpoint of the original authors holds it under "model".
        window: of each stage. Needed for version 2 if the state dict does not tell: timm's does not.
        pretrained_window: version 2 only: of each stage, where the network was fine-tuned with another window. It cannot be told
            from any state dict.
        border: as in ``swin``.

    Returns:
        Backbone, classifier of the mean of the last tokens, or None, and coverage: every tensor of the state dict was used, but
        those that can be computed.

    Raises:
        ValueError: if the tensors are not those of a Swin, one is missing or unexpected, or the window is not known.
    """
    if not {"patch_embed.proj.weight", "layers.0.blocks.0.attn.qkv.weight"} <= state.keys():
        raise ValueError("not the weights of a Swin: no patch_embed.proj.weight or no layers.0.blocks.0.attn.qkv.weight")
    depths = _depths(state)
    first = [f"layers.{stage}.blocks.0." for stage in range(len(depths))]
    version: Literal[1, 2] = 2 if f"{first[0]}attn.logit_scale" in state else 1
    per_head = "attn.logit_scale" if version == 2 else "attn.relative_position_bias_table"
    heads = [state[prefix + per_head].shape[2 - version] for prefix in first]
    patches = state["patch_embed.proj.weight"]
    dim, axes = patches.shape[0], patches.ndim - 2
    told = [_window(state, prefix, axes) for prefix in first]
    if window is None:
        if None in told:
            raise ValueError(
                "these weights of a Swin V2 do not tell their windows: give `window`, such as 8 for swinv2_tiny_window8_256"
            )
        window = [w for w in told if w is not None]
    position = state.get("absolute_pos_embed")
    model = swin(
        SwinSize(dim, depths, tuple(heads)),
        channels=patches.shape[1],
        version=version,
        axes=axes,
        patch=patches.shape[2],
        patch_norm="patch_embed.norm.weight" in state,
        window=window,
        pretrained_window=pretrained_window,
        mlp_ratio=ratio(len(state[f"{first[0]}mlp.fc1.weight"]), dim),
        qkv_bias=any(f"{first[0]}attn.{name}" in state for name in ("qkv.bias", "q_bias")),
        border=border,
        position_size=None if position is None else _square(position.shape[1], axes),
    )
    converted = swin_state(state)
    head = {key.removeprefix("head."): converted.pop(key) for key in list(converted) if key.startswith("head.")}
    return load_with_head(model, converted, head, dim=model.dims[-1])


def swin_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of timm or microsoft/Swin-Transformer under our names; the classifier as "head.". Gradients pass."""
    late = not any(key.startswith("layers.0.downsample.") for key in state)  # timm puts the downsampling before a stage's blocks
    rules = list(_RULES)
    if late:
        moved = [(rf"^layers\.{i + 1}\.downsample\.", f"layers.{i}.downsample.") for i in range(len(_depths(state)) - 1)]
        rules = [*moved, *rules]
    renamed = rename(state, rules)
    for key in [key for key in renamed if key.endswith("mixer.q_bias")]:
        prefix = key.removesuffix("q_bias")
        renamed[f"{prefix}qv_bias"] = torch.stack([renamed.pop(key), renamed.pop(f"{prefix}v_bias")])
    for key in [key for key in renamed if key.endswith("mixer.log_scale")]:
        renamed[key] = renamed[key].flatten()
    if "absolute_pos_embed" in renamed:
        renamed = {re.sub(r"^stem\.", "stem.0.", key): tensor for key, tensor in renamed.items()}
        table = renamed.pop("absolute_pos_embed")
        renamed["stem.1.table"] = torch.unflatten(table[0], 0, _square(table.shape[1], state["patch_embed.proj.weight"].ndim - 2))
    return renamed


def _depths(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    found = [re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", key) for key in state]
    blocks = {(int(match[1]), int(match[2])) for match in found if match}
    stages = sorted({stage for stage, _ in blocks})
    return tuple(sum(1 for stage, _ in blocks if stage == s) for s in stages)


def _window(state: Mapping[str, Tensor], prefix: str, axes: int) -> int | None:
    """The window's side, from a bias table or a saved buffer."""
    if (table := state.get(f"{prefix}attn.relative_position_bias_table")) is not None:
        return (_square(len(table), axes)[0] + 1) // 2
    index = state.get(f"{prefix}attn.relative_position_index")
    return None if index is None else _square(len(index), axes)[0]


def _square(count: int, axes: int) -> tuple[int, ...]:
    side = round(count ** (1 / axes))
    if side**axes != count:
        raise ValueError(f"{count} positions do not fill a square or cube of {axes} axes")
    return (side,) * axes
