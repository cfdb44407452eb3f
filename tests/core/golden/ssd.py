"""Mamba-2 (state-spaces/mamba) and VSSD (YuHengsss/VSSD)."""

from types import SimpleNamespace

from torch import Tensor
from torch.func import functional_call

from geovit.core.layers.ssd import VSSD, Mamba2
from geovit.core.ops.ssd import ssd
from geovit.core.weights import rename
from geovit.core.weights.vssd import VSSD_MIXER_NAMES


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
    args, x = case.arguments, case.input["x"]
    heads = int(args["d_model"] * args.get("expand", 2)) // args.get("headdim", 64)
    groups = args.get("ngroups", 1)
    layer = VSSD(
        args["d_model"],
        states=args.get("d_state", 64),
        kernel=args.get("d_conv", 3),
        expand=args.get("expand", 2),
        head_dim=args.get("headdim", 64),
        groups=heads if groups == -1 else groups,
        bias=args.get("bias", False),
        conv_bias=args.get("conv_bias", True),
        positive=args.get("ssd_positve_dA", True),
    )
    image = x.unflatten(1, (case.constructor["H"], case.constructor["W"]))
    y = functional_call(layer, rename(case.state, VSSD_MIXER_NAMES), (image,), strict=True)
    return {"y": y.flatten(1, 2)}


ADAPTERS = {"ssd_minimal": ssd_minimal, "mamba2_simple": mamba2_simple, "vssd_nc_ssd": vssd_nc_ssd}
