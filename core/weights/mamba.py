"""Weights of ``mamba_ssm``'s Mamba and of Vision Mamba's fork of it.

Names and shapes are ours already. Only the fork's layer scale after the mixer has no place in the layer: it is folded into the
projection before it, which computes the same.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..layers.mamba import BiMamba, Mamba
from .arguments import ratio, read_arguments
from .load import Loaded, load_into

INITIAL_VALUES = ("dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor")


def build_mamba(arguments: Mapping[str, Any]) -> Mamba | BiMamba:
    """Build the layer that the published constructor makes of these arguments.

    Args:
        arguments: by the names of ``mamba_ssm.Mamba`` and of Vision Mamba's fork, defaults may be left out.

    Raises:
        ValueError: for an unknown argument, or ``bimamba_type`` other than "none", "v1" and "v2".
    """
    args = read_arguments(
        arguments,
        of="Mamba",
        defaults={
            "d_model": None,
            "d_state": 16,
            "d_conv": 4,
            "expand": 2,
            "dt_rank": "auto",
            "conv_bias": True,
            "bias": False,
            "bimamba_type": "none",
            "if_divide_out": False,
        },
        only={"use_fast_path": (True,)},  # without it the fork forgets the backward direction
        ignored=(*INITIAL_VALUES, "init_layer_scale", "layer_idx", "device", "dtype"),
    )
    direction = args["bimamba_type"]
    if direction not in ("none", "v1", "v2"):
        raise ValueError(f"Mamba: bimamba_type is {direction!r}, expected 'none', 'v1' or 'v2'")
    options = {
        "state": args["d_state"],
        "kernel": args["d_conv"],
        "expand": args["expand"],
        "rank": None if args["dt_rank"] == "auto" else args["dt_rank"],
        "bias": args["bias"],
        "conv_bias": args["conv_bias"],
    }
    if direction == "none":
        return Mamba(args["d_model"], **options)
    # The fork's "v1" knows no mean.
    average = args["if_divide_out"] and direction == "v2"
    return BiMamba(args["d_model"], **options, tied=direction == "v1", average=average)


def mamba_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the published constructor's arguments as far as the shapes tell; they do not tell ``if_divide_out``.

    Raises:
        ValueError: if this is no state dict of a Mamba layer.
    """
    needed = ("in_proj.weight", "conv1d.weight", "dt_proj.weight", "A_log")
    if missing := [name for name in needed if name not in state]:
        raise ValueError(f"Mamba: the state dict has no {', '.join(missing)}")
    inner, dim = state["in_proj.weight"].shape[0] // 2, state["in_proj.weight"].shape[1]
    return {
        "d_model": dim,
        "d_state": state["A_log"].shape[-1],
        "d_conv": state["conv1d.weight"].shape[-1],
        "expand": ratio(inner, dim),
        "dt_rank": state["dt_proj.weight"].shape[-1],
        "conv_bias": "conv1d.bias" in state,
        "bias": "in_proj.bias" in state,
        "bimamba_type": "v2" if "conv1d_b.weight" in state else "v1" if "A_b_log" in state else "none",
    }


def mamba_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of our layer."""
    ours = {name: tensor for name, tensor in state.items() if name != "gamma"}
    if "gamma" in state:
        for name in {"out_proj.weight", "out_proj.bias"} & ours.keys():
            ours[name] = ours[name] * state["gamma"].reshape(-1, *[1] * (ours[name].ndim - 1))
    return ours


def load_mamba(state: Mapping[str, Tensor], *, average: bool = False) -> Loaded[Mamba | BiMamba]:
    """Build a layer with the weights of a published one, which has no head.

    Args:
        state: of a single layer, names without a prefix.
        average: whether both directions are averaged (``if_divide_out``), which the weights do not tell.

    Raises:
        ValueError: if anything is missing or unexpected.
    """
    module = build_mamba(mamba_arguments(state) | {"if_divide_out": average})
    return Loaded(module, None, load_into(module, mamba_state(state)))
