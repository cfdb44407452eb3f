"""The op by the compiled CPU kernel: one pass, without a gradient."""

import torch
from torch import Tensor

from ...native import native_status


def _fake(x: Tensor, _affine: Tensor, _residual: Tensor | None, _residual_affine: Tensor | None, _slope: float) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


if native_status()[0]:
    # Shapes for tracing; in C++ they would need the whole of torch, not its stable ABI.
    torch.library.register_fake("geovit::affine_act", _fake)


def affine_act(
    x: Tensor,
    affine: tuple[Tensor, Tensor, Tensor],
    residual: Tensor | None,
    residual_affine: tuple[Tensor, Tensor, Tensor] | None,
    slope: float,
) -> Tensor:
    """Map, add, activate CPU tensors in float32 or bfloat16, rounded once."""
    beside = None if residual_affine is None else torch.stack([t.float() for t in residual_affine])
    tokens = x.reshape(x.shape[0], -1, x.shape[-1])
    added = None if residual is None else residual.reshape(tokens.shape)
    out: Tensor = torch.ops.geovit.affine_act(tokens, torch.stack([t.float() for t in affine]), added, beside, slope)
    return out.view(x.shape)
