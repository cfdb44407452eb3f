"""Weights of VMamba: its mixer SS2D, its block and its backbone VSSM, in all releases whose scan is Mamba's.

The authors' ``forward_type`` names a variant, such as "v05_noz". What it changes, in options of ``SelectiveScan``: "_noz"
leaves out the gate and "_nozact" its activation; "_on..." replaces the norm of the summed scans and "_oact" puts a GELU after it;
"v051d" and "v052d" take other routes. "v01" to "v05", "v2", "v3" and "_no32" differ in speed and in 16-bit rounding only.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.hierarchical import Pyramid
from ..backbones.vssm import vssm
from ..blocks.metaformer import MetaFormerBlock
from ..layers.mlp import GEGLU, MLP
from ..layers.ss2d import SelectiveScan
from ..ops.selective_scan import CROSS_2D
from .arguments import read_arguments
from .head import load_with_head
from .load import Coverage, rename
from .mamba import INITIAL_VALUES, ratio

_ROUTES = {
    **dict.fromkeys(("v01", "v02", "v03", "v04", "v05", "v2", "v3"), CROSS_2D),
    "v051d": ("raster",) * 4,
    "v052d": ("raster", "raster", "raster_reverse", "raster_reverse"),
}
_REFINEMENTS: dict[str, tuple[str, ...]] = {
    "_onnone": (),
    "_ondwconv3": ("conv",),
    "_oncnorm": ("layer", "conv"),
    "_onsoftmax": ("softmax",),
    "_onsigmoid": ("sigmoid",),
}
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
_MODEL = [
    (r"^patch_embed\.5\.", "stem.2.conv."),
    (r"^patch_embed\.7\.", "stem.2.norm."),
    (r"^layers\.(\d+)\.downsample\.1\.", r"downs.\1.conv."),
    (r"^layers\.(\d+)\.downsample\.reduction\.", r"downs.\1.proj."),
    (r"^layers\.(\d+)\.downsample\.(3|norm)\.", r"downs.\1.norm."),
    (r"^classifier\.", ""),
]


def forward_type_options(forward_type: str) -> dict[str, Any]:
    """Return the options gate, refine and routes of ``SelectiveScan`` that a ``forward_type`` stands for.

    Raises:
        ValueError: if it is unknown, or another mixer: "v052dc" scans rows, then columns; "xv..." projects before it scans; "m0"
            is Mamba-2.
    """

    def split(name: str, *suffixes: str) -> tuple[str, str]:
        found = next((suffix for suffix in suffixes if name.endswith(suffix)), "")
        return name.removesuffix(found), found

    if forward_type in ("v0", "v0seq"):
        return {"gate": "activated", "refine": ("layer",), "routes": CROSS_2D}
    name, _ = split(forward_type, "_no32")  # the authors' code, too, reads the suffixes in this order
    name, act = split(name, "_oact")
    name, ungated = split(name, "_noz")
    name, linear = split(name, "_nozact")
    name, norm = split(name, *_REFINEMENTS)
    if name not in _ROUTES:
        suffixes = f"[{'|'.join(_REFINEMENTS)}][_nozact][_noz][_oact][_no32]"
        raise ValueError(f"SS2D: forward_type is {forward_type!r}, known are v0, v0seq and {'|'.join(_ROUTES)}{suffixes}")
    return {
        "gate": "none" if ungated else "linear" if linear else "activated",
        "refine": _REFINEMENTS.get(norm, ("layer",)) + (("gelu",) if act else ()),
        "routes": _ROUTES[name],
    }


def build_ss2d(arguments: Mapping[str, Any]) -> SelectiveScan:
    """Build the mixer that the authors' ``SS2D`` makes of these arguments; ours maps (batch, height, width, channels).

    Raises:
        ValueError: for arguments or values that are not known.
    """
    args = read_arguments(
        arguments,
        of="SS2D",
        defaults={
            "d_model": 96,
            "d_state": 16,
            "ssm_ratio": 2.0,
            "dt_rank": "auto",
            "act_layer": "silu",
            "d_conv": 3,
            "conv_bias": True,
            "bias": False,
            "forward_type": "v2",
        },
        only={"dropout": (0.0,)},
        ignored=(*INITIAL_VALUES, "initialize", "channel_first"),
    )
    if args["forward_type"] in ("v0", "v0seq"):  # knows no choice here
        args |= {"act_layer": "silu", "d_conv": 3, "conv_bias": True, "bias": False}
    return SelectiveScan(
        args["d_model"],
        state=args["d_state"],
        expand=args["ssm_ratio"],
        rank=None if args["dt_rank"] == "auto" else args["dt_rank"],
        kernel=max(args["d_conv"], 1),
        bias=args["bias"],
        conv_bias=args["conv_bias"],
        activation=str(args["act_layer"]).removeprefix("nn.").lower(),  # type: ignore[arg-type]  # it is checked there
        **forward_type_options(args["forward_type"]),
    )


_IN_BLOCK = {
    "ssm_d_state": 16,
    "ssm_ratio": 2.0,
    "ssm_dt_rank": "auto",
    "ssm_act_layer": "silu",
    "ssm_conv": 3,
    "ssm_conv_bias": True,
    "forward_type": "v2",
    "mlp_ratio": 4.0,
    "gmlp": False,
}
_IN_BLOCK_ONLY = {"ssm_drop_rate": (0.0,), "mlp_drop_rate": (0.0,), "mlp_act_layer": ("gelu", "nn.GELU")}


def _mixer(dim: int, args: Mapping[str, Any]) -> SelectiveScan:
    return build_ss2d(
        {
            "d_model": dim,
            "d_state": args["ssm_d_state"],
            "ssm_ratio": args["ssm_ratio"],
            "dt_rank": args["ssm_dt_rank"],
            "act_layer": args["ssm_act_layer"],
            "d_conv": args["ssm_conv"],
            "conv_bias": args["ssm_conv_bias"],
            "forward_type": args["forward_type"],
        }
    )


def build_vss_block(arguments: Mapping[str, Any]) -> MetaFormerBlock:
    """Build the block that the authors' ``VSSBlock`` makes of these arguments, with layer norms.

    Raises:
        ValueError: for arguments or values that are not known.
    """
    args = read_arguments(
        arguments,
        of="VSSBlock",
        defaults={"hidden_dim": None, "drop_path": 0.0, "post_norm": False, **_IN_BLOCK},
        only=_IN_BLOCK_ONLY,
        ignored=("channel_first", "ssm_init", "use_checkpoint"),
    )
    dim, hidden = args["hidden_dim"], int(args["hidden_dim"] * args["mlp_ratio"])
    return MetaFormerBlock(
        dim,
        _mixer(dim, args),
        channel_mixer=None if not hidden else GEGLU(dim, hidden) if args["gmlp"] else MLP(dim, hidden),
        norm_position="after" if args["post_norm"] else "before",
        drop_path=args["drop_path"],
    )


def build_vssm(arguments: Mapping[str, Any]) -> Pyramid:
    """Build the backbone that the authors' ``VSSM`` makes of these arguments, up to its final norm.

    Raises:
        ValueError: for arguments or values that are not known.
    """
    args = read_arguments(
        arguments,
        of="VSSM",
        defaults={
            "patch_size": 4,
            "in_chans": 3,
            "depths": (2, 2, 9, 2),
            "dims": (96, 192, 384, 768),
            "drop_path_rate": 0.1,
            "patch_norm": True,
            "downsample_version": "v2",
            "patchembed_version": "v1",
            **_IN_BLOCK,
        },
        only={"posembed": (False,), "norm_layer": ("ln", "LN", "ln2d", "LN2D"), **_IN_BLOCK_ONLY},
        ignored=("num_classes", "ssm_init", "use_checkpoint", "imgsize"),
    )
    stems, downs = {"v1": "patches", "v2": "overlapping"}, {"v1": "merging", "v2": "patches", "v3": "overlapping"}
    for name, known in (("patchembed_version", stems), ("downsample_version", downs)):
        if args[name] not in known:
            raise ValueError(f"VSSM: {name} is {args[name]!r}, known are {', '.join(known)}")
    dims, depths = args["dims"], args["depths"]

    def mixer(dim: int, *, heads: int, axes: int, stage: int, index: int) -> nn.Module:
        return _mixer(dim, args)

    return vssm(
        args["in_chans"],
        dims=[dims * 2**i for i in range(len(depths))] if isinstance(dims, int) else dims,
        depths=depths,
        mixer=mixer,
        mlp_ratio=args["mlp_ratio"],
        channel_mixer="geglu" if args["gmlp"] else "mlp",
        stem=stems[args["patchembed_version"]],  # type: ignore[arg-type]
        patch=args["patch_size"],
        patch_norm=args["patch_norm"],
        downsample=downs[args["downsample_version"]],  # type: ignore[arg-type]
        drop_path=args["drop_path_rate"],
    )


def ss2d_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of our mixer."""
    return _routes_apart(rename(state, _MIXER))


def vss_block_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of our block."""
    return _routes_apart(rename(state, _BLOCK))


def vssm_state(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the state dicts of our backbone and of the linear classifier behind the mean of its tokens."""
    first = "stem.0" if "patch_embed.5.weight" in state else "stem"
    stem = [(r"^patch_embed\.(0|proj)\.", f"{first}.conv."), (r"^patch_embed\.(2|norm)\.", f"{first}.norm.")]
    named = rename(state, [*stem, *_MODEL])
    blocks = rename({name: t for name, t in named.items() if name.startswith("layers.")}, _BLOCK)
    blocks = rename(blocks, [(r"^layers\.(\d+)\.blocks\.", r"stages.\1.")])
    ours = _routes_apart(blocks | {name: t for name, t in named.items() if not name.startswith(("layers.", "head."))})
    return ours, {name.removeprefix("head."): t for name, t in named.items() if name.startswith("head.")}


def _routes_apart(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give what belongs to routes an axis of its own, and linear layers that were stored as convolutions their own shape."""
    ours = {}
    for name, tensor in state.items():
        if name.endswith(("A_log", "D")):
            routes = state[name.removesuffix("A_log").removesuffix("D") + "dt_bias"].shape[0]
            tensor = torch.unflatten(tensor, 0, (routes, -1))
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
    try:
        depths: list[int] = []
        while f"stages.{len(depths)}.0.norm1.weight" in ours:
            stage = len(depths)
            depths.append(next(i for i in range(len(ours)) if f"stages.{stage}.{i}.norm1.weight" not in ours))
        dims = [len(ours[f"stages.{i}.0.norm1.weight"]) for i in range(len(depths))]
        block = {name.removeprefix("stages.0.0."): t for name, t in ours.items() if name.startswith("stages.0.0.")}
        overlapping = "stem.2.conv.weight" in ours
        first = ours["stem.0.conv.weight" if overlapping else "stem.conv.weight"]
        inner, rank = block["mixer.dt_proj"].shape[1:]
        ranks = [ours[f"stages.{i}.0.mixer.dt_proj"].shape[2] for i in range(len(depths))]
        fc1, fc2 = block.get("channel_mixer.fc1.weight"), block.get("channel_mixer.fc2.weight")
        down = ours.get("downs.0.conv.weight")
        arguments = {
            "patch_size": 2 * (first.shape[-1] - 1) if overlapping else first.shape[-1],
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
            "patch_norm": ("stem.0.norm.weight" if overlapping else "stem.norm.weight") in ours,
            "patchembed_version": "v2" if overlapping else "v1",
            "downsample_version": "v1" if down is None else "v2" if down.shape[-1] == 2 else "v3",
            "forward_type": forward_type,
        }
    except (KeyError, StopIteration, IndexError) as error:
        raise ValueError(f"VSSM: the state dict has no {error}") from error
    return arguments


def load_vssm(state: Mapping[str, Tensor], *, forward_type: str) -> tuple[Pyramid, nn.Linear | None, Coverage]:
    """Build a backbone with the weights of a published VSSM, and its classifier if there is one.

    The class scores are ``classifier(backbone(image).mean((1, 2)))``.

    Raises:
        ValueError: if anything is missing or unexpected.
    """
    backbone = build_vssm(vssm_arguments(state, forward_type=forward_type))
    ours, head = vssm_state(state)
    return (backbone, *load_with_head(backbone, ours, head))
