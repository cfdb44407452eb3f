"""State dicts of VMamba under our names, and what their shapes tell."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .arguments import ratio
from .load import rename

_MIXER = [
    (r"\bconv2d\.", "conv."),
    (r"\bx_proj_weight$", "x_proj"),
    (r"\bdt_projs_weight$", "dt_proj"),
    (r"\bdt_projs_bias$", "dt_bias"),
    (r"\bA_logs$", "A_log"),
    (r"\bDs$", "D"),
    (r"\bout_norm\.2\.", "refine.1."),  # what is missing between is a permutation
    (r"\bout_norm\.([01]\.)?", "refine.0."),
]
_BLOCK = [
    (r"\b(ln_1|norm)\.", "norm1."),
    (r"\b(self_attention|op)\.", "mixer."),
    (r"\bmlp\.", "channel_mixer."),
    *_MIXER,
]
_PATCHES = [(r"^patch_embed\.(0|proj)\.", "stem.conv."), (r"^patch_embed\.(2|norm)\.", "stem.norm.")]
_OVERLAPPING = [
    (r"^patch_embed\.0\.", "stem.0.conv."),
    (r"^patch_embed\.2\.", "stem.0.norm."),
    (r"^patch_embed\.5\.", "stem.2.conv."),
    (r"^patch_embed\.7\.", "stem.2.norm."),
]
_MODEL = [
    (r"^layers\.(\d+)\.downsample\.1\.", r"downs.\1.conv."),
    (r"^layers\.(\d+)\.downsample\.reduction\.", r"downs.\1.proj."),
    (r"^layers\.(\d+)\.downsample\.(3|norm)\.", r"downs.\1.norm."),
    (r"^classifier\.", ""),
]


def ss2d_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of our mixer."""
    return _routes_apart(rename(state, _MIXER))


def vss_block_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of our block."""
    return _routes_apart(rename(state, _BLOCK))


def vssm_state(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the state dicts of our backbone and of the linear classifier behind the mean of its tokens."""
    stem = _OVERLAPPING if "patch_embed.5.weight" in state else _PATCHES
    if "pos_embed" in state:
        stem = [*stem, (r"^stem\.", "stem.0."), (r"^pos_embed$", "stem.1.table")]
    named = rename(state, [*stem, *_MODEL])
    if "pos_embed" in state:
        named["stem.1.table"] = named["stem.1.table"].squeeze(0).movedim(0, -1)
    blocks = rename({name: t for name, t in named.items() if name.startswith("layers.")}, _BLOCK)
    blocks = rename(blocks, [(r"^layers\.(\d+)\.blocks\.", r"stages.\1.")])
    ours = _routes_apart(blocks | {name: t for name, t in named.items() if not name.startswith(("layers.", "head."))})
    return ours, {name.removeprefix("head."): t for name, t in named.items() if name.startswith("head.")}


def _routes_apart(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give what belongs to routes an axis of its own, and linear layers that were stored as convolutions their own shape."""
    ours = {}
    for name, tensor in state.items():
        if name.endswith(("A_log", "D")):
            biases = state.get(name.removesuffix("A_log").removesuffix("D") + "dt_bias")
            if biases is None:
                raise ValueError(f"SS2D: the state dict has no dt_projs_bias beside the weight that is {name} here")
            tensor = torch.unflatten(tensor, 0, (len(biases), -1))
        elif name.endswith(("proj.weight", "fc1.weight", "fc2.weight")):
            tensor = tensor.flatten(1)
        ours[name] = tensor
    return ours


def vssm_arguments(state: Mapping[str, Tensor], *, forward_type: str) -> dict[str, Any]:
    """Return the constructor arguments that the shapes of a state dict tell.

    Args:
        state: under the authors' names.
        forward_type: of the variant, which shapes do not tell.

    Raises:
        ValueError: if this is no state dict of a VSSM.
    """
    ours, _ = vssm_state(state)
    depths: list[int] = []
    while f"stages.{len(depths)}.0.norm1.weight" in ours:
        stage = len(depths)
        depths.append(next(i for i in range(len(ours)) if f"stages.{stage}.{i}.norm1.weight" not in ours))
    if not depths:
        raise ValueError("VSSM: the state dict has no layers.0.blocks.0.norm.weight")
    try:
        dims = [len(ours[f"stages.{i}.0.norm1.weight"]) for i in range(len(depths))]
        block = {name.removeprefix("stages.0.0."): t for name, t in ours.items() if name.startswith("stages.0.0.")}
        table = ours.get("stem.1.table")
        stem = "stem" if table is None else "stem.0"
        overlapping = f"{stem}.2.conv.weight" in ours
        stem = f"{stem}.0" if overlapping else stem
        first = ours[f"{stem}.conv.weight"]
        patch = 2 * (first.shape[-1] - 1) if overlapping else first.shape[-1]
        inner, rank = block["mixer.dt_proj"].shape[1:]
        ranks = [ours[f"stages.{i}.0.mixer.dt_proj"].shape[2] for i in range(len(depths))]
        fc1, fc2 = block.get("channel_mixer.fc1.weight"), block.get("channel_mixer.fc2.weight")
        down = ours.get("downs.0.conv.weight")
        arguments = {
            "patch_size": patch,
            "in_chans": first.shape[1],
            "depths": depths,
            "dims": dims,
            "ssm_d_state": block["mixer.A_log"].shape[-1],
            "ssm_ratio": ratio(inner, dims[0]),
            "ssm_dt_rank": rank if len(set(ranks)) == 1 else "auto",
            "ssm_conv": block["mixer.conv.weight"].shape[-1] if "mixer.conv.weight" in block else 1,
            "ssm_conv_bias": "mixer.conv.bias" in block,
            "mlp_ratio": 0.0 if fc2 is None else ratio(fc2.shape[1], dims[0]),
            "gmlp": fc1 is not None and fc2 is not None and len(fc1) == 2 * fc2.shape[1],
            "patch_norm": f"{stem}.norm.weight" in ours,
            "patchembed_version": "v2" if overlapping else "v1",
            "downsample_version": "v1" if down is None else "v2" if down.shape[-1] == 2 else "v3",
            "posembed": table is not None,
            "imgsize": 224 if table is None else len(table) * patch,
            "forward_type": forward_type,
        }
    except KeyError as error:
        raise ValueError(f"VSSM: the state dict has no {error}") from error
    return arguments
