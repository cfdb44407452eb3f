"""Weights of Vision Mamba."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..backbones.vim import ClassPlace, Vim
from .arguments import read_arguments
from .head import load_with_head
from .load import Loaded, rename
from .mamba import build_mamba, mamba_arguments

_NAMES = [
    (r"^patch_embed\.proj\.", "embed.conv."),
    (r"^layers\.(\d+)\.mixer\.gamma$", r"blocks.\1.scale1"),
    (r"^layers\.(\d+)\.mixer\.", r"blocks.\1.mixer."),
    (r"^layers\.(\d+)\.norm\.", r"blocks.\1.norm1."),
    (r"^norm_f\.", "norm."),
    (r"^pos_embed$", "position"),
    (r"^cls_token$", "class_tokens"),
]


def build_vim(arguments: Mapping[str, Any]) -> Vim:
    """Build the backbone that the authors' ``VisionMamba`` makes of these arguments, up to its final norm.

    Its classifier, and ``final_pool_type``, which counts without a class token only, belong to what comes after: ``Vim.pooled``
    is the class token or the mean ("mean"), ``Vim.sequence(x)[:, -1]`` the last token ("none").

    Raises:
        ValueError: for arguments or values that are not known.
    """
    args = read_arguments(
        arguments,
        of="VisionMamba",
        defaults={
            "img_size": 224,
            "patch_size": 16,
            "stride": 16,
            "depth": 24,
            "embed_dim": 192,
            "d_state": 16,
            "channels": 3,
            "ssm_cfg": None,
            "drop_path_rate": 0.1,
            "rms_norm": True,
            "if_bidirectional": False,
            "if_abs_pos_embed": True,
            "if_bimamba": False,
            "bimamba_type": "v2",
            "if_cls_token": True,
            "if_divide_out": True,
            "init_layer_scale": None,
            "use_double_cls_token": False,
            "use_middle_cls_token": True,
        },
        # No published weights have rotary positions, which the code gives to the wrong tokens if a class token is in the middle.
        only={"drop_rate": (0.0,), "norm_epsilon": (1e-5,), "if_rope": (False,), "flip_img_sequences_ratio": (-1.0, 0.0)},
        ignored=(
            *("num_classes", "final_pool_type", "initializer_cfg", "fused_add_norm", "residual_in_fp32", "device", "dtype"),
            *("ft_seq_len", "pt_hw_seq_len", "if_rope_residual"),
        ),
    )
    image, mixed = args["img_size"], args["ssm_cfg"] or {}
    size = (image, image) if isinstance(image, int) else tuple(image)
    mixed = {
        "bimamba_type": "v1" if args["if_bimamba"] else args["bimamba_type"],
        "d_state": args["d_state"],
        "if_divide_out": args["if_divide_out"],
        **mixed,
    }
    place: ClassPlace = "middle" if args["use_middle_cls_token"] else "first"
    if args["use_double_cls_token"]:
        place = "ends"
    return Vim(
        args["channels"],
        args["embed_dim"],
        depth=args["depth"],
        size=size if args["if_abs_pos_embed"] else None,
        patch=args["patch_size"],
        stride=args["stride"],
        mixer=lambda dim: build_mamba({"d_model": dim, **mixed}),
        class_at=place if args["if_cls_token"] else "none",
        norm="rms" if args["rms_norm"] else "layer",
        paired=args["if_bidirectional"],
        drop_path=args["drop_path_rate"],
        layer_scale=args["init_layer_scale"],
    )


def vim_state(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the state dicts of our backbone and of the linear classifier behind ``Vim.pooled``."""
    state = dict(state)
    if "cls_token_head" in state and "cls_token_tail" in state:
        state["cls_token"] = torch.cat([state.pop("cls_token_head"), state.pop("cls_token_tail")], dim=1)
    ours = rename({name: tensor for name, tensor in state.items() if not name.startswith("head.")}, _NAMES)
    for name in {"position", "class_tokens"} & ours.keys():
        ours[name] = ours[name].squeeze(0)
    return ours, {name.removeprefix("head."): tensor for name, tensor in state.items() if name.startswith("head.")}


def vim_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the constructor arguments that the shapes of a state dict tell.

    They do not tell ``img_size``, ``stride``, ``use_middle_cls_token`` and ``if_divide_out``.

    Raises:
        ValueError: if this is no state dict of a VisionMamba.
    """
    prefix = "layers.0.mixer."
    if missing := [name for name in ("patch_embed.proj.weight", "norm_f.weight", f"{prefix}A_log") if name not in state]:
        raise ValueError(f"VisionMamba: the state dict has no {', '.join(missing)}")
    mixer = mamba_arguments({name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)})
    dim, channels, patch = state["patch_embed.proj.weight"].shape[:3]
    return {
        "patch_size": patch,
        "depth": len({name.split(".")[1] for name in state if name.startswith("layers.")}),
        "embed_dim": dim,
        "channels": channels,
        "d_state": mixer.pop("d_state"),
        "bimamba_type": mixer.pop("bimamba_type"),
        "ssm_cfg": {name: value for name, value in mixer.items() if name != "d_model"},
        "rms_norm": "norm_f.bias" not in state,
        "if_abs_pos_embed": "pos_embed" in state,
        "if_cls_token": any(name.startswith("cls_token") for name in state),
        "use_double_cls_token": "cls_token_head" in state,
        "init_layer_scale": 1.0 if f"{prefix}gamma" in state else None,
    }


def load_vim(
    state: Mapping[str, Tensor],
    *,
    img_size: int | tuple[int, int] = 224,
    stride: int | None = None,
    use_middle_cls_token: bool = True,
    if_divide_out: bool = True,
) -> Loaded[Vim]:
    """Build a backbone with the weights of a published VisionMamba, and its classifier if there is one.

    Args:
        state: under the authors' names.
        img_size, stride, use_middle_cls_token, if_divide_out: what shapes do not tell; the defaults are those of the published
            models, with patches that touch.

    Raises:
        ValueError: if anything is missing or unexpected.
    """
    arguments = vim_arguments(state)
    backbone = build_vim(
        arguments
        | {
            "img_size": img_size,
            "stride": arguments["patch_size"] if stride is None else stride,
            "use_middle_cls_token": use_middle_cls_token,
            "if_divide_out": if_divide_out,
        }
    )
    return load_with_head(backbone, *vim_state(state), dim=backbone.dim)
