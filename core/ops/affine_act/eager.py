"""The op in vectorised PyTorch: any device, any dtype."""

import torch
from torch import Tensor
from torch.nn import functional as F


def _mapped(x: Tensor, affine: tuple[Tensor, Tensor, Tensor] | None) -> Tensor:
    if affine is None:
        return x
    dtype = torch.promote_types(x.dtype, torch.float32)
    mean, factor, offset = (t.to(dtype).view(t.shape[0], *(1,) * (x.ndim - 2), t.shape[1]) for t in affine)
    return torch.addcmul(offset, x - mean, factor)


def affine_act(
    x: Tensor,
    affine: tuple[Tensor, Tensor, Tensor],
    residual: Tensor | None,
    residual_affine: tuple[Tensor, Tensor, Tensor] | None,
    slope: float,
) -> Tensor:
    """Map, add, activate; in float32 or better, rounded once."""
    u = _mapped(x, affine)
    if residual is not None:
        u = u + _mapped(residual, residual_affine)
    return F.leaky_relu(u, slope).to(x.dtype)
