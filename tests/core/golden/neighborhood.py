"""Neighbourhood attention (NATTEN's border rule) in one to three dimensions."""

from types import SimpleNamespace

import torch
from torch import Tensor

from geovit.core.ops.local_attention import local_attention, neighborhood


def attention(case: SimpleNamespace) -> dict[str, Tensor]:
    args = case.arguments
    pattern = neighborhood(
        tuple(args["kernel_size"]), dilation=tuple(args["dilation"]), causal=tuple(map(bool, args["is_causal"]))
    )
    rpb = case.input.get("rpb")  # (heads, rows of each axis)
    table = None if rpb is None else rpb.flatten(1).T
    q, k, v = (case.input[name] for name in "qkv")
    out = local_attention(q, k, v, pattern, bias_table=table, scale=args["scale"])
    return {"out": out, "mask": mask(tuple(args["dims"]), pattern)}


def mask(size: tuple[int, ...], pattern) -> Tensor:
    """Who attends to whom, (positions, positions), by what comes out: each position's value is a one at its own place."""
    positions = torch.Size(size).numel()
    flat = torch.zeros(1, *size, 1, positions)
    return local_attention(flat, flat, torch.eye(positions).reshape(flat.shape), pattern).reshape(positions, positions) > 0


ADAPTERS = {f"neighborhood_attention_{axes}d": attention for axes in (1, 2, 3)}
