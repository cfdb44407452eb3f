"""Weights of VMamba: its mixer SS2D, its block and its backbone VSSM, in all releases whose scan is Mamba's.

The authors' ``forward_type`` names a variant, such as "v05_noz". What it changes, in options of ``SelectiveScan``: "_noz"
leaves out the gate and "_nozact" its activation; "_on..." replaces the norm of the summed scans and "_oact" puts a GELU after it;
"v051d" and "v052d" take other routes. "v01" to "v05", "v2", "v3" and "_no32" differ in speed and in 16-bit rounding only.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..backbones.hierarchical import Pyramid
from ..backbones.vssm import vssm
from ..blocks.metaformer import MetaFormerBlock
from ..layers.mlp import GEGLU, MLP
from ..layers.ss2d import SelectiveScan
from ..ops.selective_scan import CROSS_2D
from .arguments import read_arguments
from .head import load_with_head
from .load import Loaded
from .mamba import INITIAL_VALUES
from .vmamba_state import vssm_arguments, vssm_state

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
            "posembed": False,
            "imgsize": 224,
            **_IN_BLOCK,
        },
        only={"norm_layer": ("ln", "LN", "ln2d", "LN2D"), **_IN_BLOCK_ONLY},
        ignored=("num_classes", "ssm_init", "use_checkpoint"),
    )
    stems, downs = {"v1": "patches", "v2": "overlapping"}, {"v1": "merging", "v2": "patches", "v3": "overlapping"}
    for name, known in (("patchembed_version", stems), ("downsample_version", downs)):
        if args[name] not in known:
            raise ValueError(f"VSSM: {name} is {args[name]!r}, known are {', '.join(known)}")
    dims, depths, side = args["dims"], args["depths"], args["imgsize"] // args["patch_size"]

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
        position_size=(side, side) if args["posembed"] else None,
        drop_path=args["drop_path_rate"],
    )


def load_vssm(state: Mapping[str, Tensor], *, forward_type: str) -> Loaded[Pyramid]:
    """Build a backbone with the weights of a published VSSM, and its classifier if there is one.

    The class scores are ``loaded.head(loaded.backbone(image).mean((1, 2)))``.

    Raises:
        ValueError: if anything is missing or unexpected.
    """
    backbone = build_vssm(vssm_arguments(state, forward_type=forward_type))
    ours, head = vssm_state(state)
    return load_with_head(backbone, ours, head, dim=backbone.dims[-1])
