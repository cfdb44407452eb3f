"""Mamba-2 (state-spaces/mamba) and VSSD (YuHengsss/VSSD)."""

from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from geovit.core.backbones.vssd import vssd_backbone, vssd_block
from geovit.core.layers.global_attention import GlobalAttention
from geovit.core.layers.ssd import VSSD, Mamba2
from geovit.core.ops.ssd import ssd
from geovit.core.weights import rename
from geovit.core.weights.vssd import VSSD_NAMES


def ssd_minimal(case: SimpleNamespace) -> dict[str, Tensor]:
    x, A, B, C = (case.input[name] for name in ("X", "A", "B", "C"))
    state = case.input.get("initial_states")
    y, state = ssd(
        x,
        None,
        A,
        B,
        C,
        chunk=case.constructor["block_len"],
        initial_state=None if state is None else state[:, 0],
        return_state=True,
    )
    return {"Y": y, "final_state": state}


def mamba2_simple(case: SimpleNamespace) -> dict[str, Tensor]:
    args = case.arguments
    layer = Mamba2(
        args["d_model"],
        states=args.get("d_state", 64),
        kernel=args.get("d_conv", 4),
        expand=args.get("expand", 2),
        head_dim=args.get("headdim", 128),
        groups=args.get("ngroups", 1),
        bias=args.get("bias", False),
        conv_bias=args.get("conv_bias", True),
        dt_limit=tuple(float(limit) for limit in args.get("dt_limit", (0.0, "inf"))),
        learn_initial_state=args.get("learnable_init_states", False),
        chunk=args.get("chunk_size", 256),
    )
    return {"y": functional_call(layer, case.state, (case.input["x"],), strict=True)}


def vssd_nc_ssd(case: SimpleNamespace) -> dict[str, Tensor]:
    args = case.arguments
    expand, groups = args.get("expand", 2), args.get("ngroups", 1)
    layer = _mixer(args["d_model"], args, head_dim=args.get("headdim", 64), expand=expand, groups=groups)
    return {"y": _on_image(layer, case)}


def vssd_block_(case: SimpleNamespace) -> dict[str, Tensor]:
    args = case.arguments
    dim, heads, expand = args["dim"], args["num_heads"], args.get("ssd_expansion", 2)
    if args.get("attn_type", "mamba2") == "standard":
        mixer = GlobalAttention(dim, heads=heads, qkv_bias=False)
    else:
        mixer = _mixer(dim, args, head_dim=int(dim * expand) // heads, expand=expand, groups=args.get("ssd_ngroups", 1))
    return {"y": _on_image(vssd_block(dim, mixer, mlp_ratio=args.get("mlp_ratio", 4.0)), case)}


def _mixer(dim: int, args: dict[str, Any], *, head_dim: int, expand: float, groups: int) -> VSSD:
    return VSSD(
        dim,
        states=args.get("d_state", 64),
        kernel=args.get("d_conv", 3),
        expand=expand,
        head_dim=head_dim,
        groups=_groups(groups),
        bias=args.get("bias", False),
        conv_bias=args.get("conv_bias", True),
        positive=args.get("ssd_positve_dA", True),
    )


def _on_image(layer: nn.Module, case: SimpleNamespace) -> Tensor:
    """Call a layer on the tokens as an image, with the official weights."""
    image = case.input["x"].unflatten(1, (case.constructor["H"], case.constructor["W"]))
    return functional_call(layer, rename(case.state, VSSD_NAMES), (image,), strict=True).flatten(1, 2)


def vssd_model(case: SimpleNamespace) -> dict[str, Tensor]:
    args = case.arguments
    stages = len(args.get("depths", (2, 4, 12, 4)))
    backbone = vssd_backbone(
        args.get("in_chans", 3),
        dims=[args.get("embed_dim", 64) * 2**i for i in range(stages)],
        depths=args.get("depths", (2, 4, 12, 4)),
        heads=args.get("num_heads", (2, 4, 8, 16)),
        kinds=[_KINDS[kind] for kind in args.get("attn_types", ("mamba2", "mamba2", "mamba2", "standard"))],
        mlp_ratio=args.get("mlp_ratio", 4.0),
        simple=(args.get("simple_patch_embed", False), args.get("simple_downsample", False)),
        drop_path=args.get("drop_path_rate", 0.2),
        states=args.get("d_state", 64),
        expand=args.get("ssd_expansion", 2),
        groups=_groups(args.get("ssd_ngroups", 1)),
        positive=args.get("ssd_positve_dA", True),
    ).eval()
    state = {name: t.detach() if ".running_" in name else t for name, t in rename(case.state, VSSD_NAMES).items()}
    tokens = functional_call(backbone, state, (case.input["image"],), strict=True)
    return {"logits": F.linear(tokens.mean((1, 2)), case.state["head.weight"], case.state["head.bias"])}


_KINDS = {"mamba2": "ssd", "standard": "attention"}


def _groups(number: int) -> int | None:
    return None if number == -1 else number


ADAPTERS = {
    "ssd_minimal": ssd_minimal,
    "mamba2_simple": mamba2_simple,
    "vssd_nc_ssd": vssd_nc_ssd,
    "vssd_block": vssd_block_,
    "vssd_model": vssd_model,
}
