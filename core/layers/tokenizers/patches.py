"""What the tokenisers share: images cut into patches."""

import torch
from torch import Tensor
from torch.nn import functional as F


def check_size(name: str, x: Tensor, patch: int) -> None:
    """Check that an image, (batch, bands, height, width), consists of whole patches.

    Raises:
        ValueError: if a side is no multiple of the patch.
    """
    if x.ndim != 4 or x.shape[2] % patch or x.shape[3] % patch:
        raise ValueError(f"{name}: size {tuple(x.shape[2:])} is not a multiple of the patch {patch}")


def pitch_of(gsd: float | Tensor, patch: int, x: Tensor) -> Tensor:
    """Return metres from a token to the next, (batch,), of images ``x``."""
    return torch.as_tensor(gsd, dtype=torch.float32, device=x.device).expand(len(x)) * patch


def sum_bands(x: Tensor, weight: Tensor, bias: Tensor, band_mask: Tensor | None = None) -> Tensor:
    """Project the patches of every band with weights of its own and add the bands up, as one convolution.

    Args:
        x: (batch, bands, height, width).
        weight: (bands, dim, patch, patch).
        bias: (bands, dim).
        band_mask: bool (batch, bands): bands without are left out; their values may be anything.

    Returns:
        (batch, rows, columns, dim).
    """
    kernel, patch = weight.transpose(0, 1).to(x.dtype), weight.shape[-1]
    if band_mask is None:
        return F.conv2d(x, kernel, bias.sum(0).to(x.dtype), stride=patch).movedim(1, -1)
    y = F.conv2d(x.masked_fill(~band_mask[..., None, None], 0.0), kernel, stride=patch).movedim(1, -1)
    return y + (band_mask.to(bias.dtype) @ bias).to(y.dtype)[:, None, None]


def mean_bands(x: Tensor, weight: Tensor, bias: Tensor, band_mask: Tensor | None = None) -> Tensor:
    """Like ``sum_bands``, divided by the number of bands that are there; zeros for an image that has none."""
    if band_mask is None:
        return sum_bands(x, weight / len(weight), bias / len(bias))
    y = sum_bands(x, weight, bias, band_mask)
    return y / band_mask.sum(1).clamp_min(1).to(y.dtype)[:, None, None, None]
