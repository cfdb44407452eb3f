"""The readable truth that the other backends are compared with."""

import torch
from torch import Tensor


def affine_act(
    x: Tensor,
    affine: tuple[Tensor, Tensor, Tensor],
    residual: Tensor | None,
    residual_affine: tuple[Tensor, Tensor, Tensor] | None,
    slope: float,
) -> Tensor:
    """Image by image, in at least float32 and rounded once."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    images = []
    for image in range(x.shape[0]):
        mean, factor, offset = (t[image].to(dtype) for t in affine)
        u = (x[image].to(dtype) - mean) * factor + offset
        if residual is not None:
            added = residual[image].to(dtype)
            if residual_affine is not None:
                mean, factor, offset = (t[image].to(dtype) for t in residual_affine)
                added = (added - mean) * factor + offset
            u = u + added
        images.append(torch.where(u > 0, u, u * slope))
    return torch.stack(images).to(x.dtype) if images else x.clone()
