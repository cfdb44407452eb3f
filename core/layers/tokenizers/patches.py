"""What the tokenisers share: images cut into patches."""

from collections.abc import Callable

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
    return torch.as_tensor(gsd, dtype=torch.float32, device=x.device).expand(x.shape[0]) * patch


def cut(x: Tensor, patch: int) -> Tensor:
    """Return the pixels of patches: (batch, bands, height, width) to (batch, bands, rows, columns, patch ** 2)."""
    rows, columns = (n // patch for n in x.shape[2:])
    return x.reshape(*x.shape[:2], rows, patch, columns, patch).transpose(3, 4).flatten(4)


def blanked(x: Tensor, band_mask: Tensor | None) -> Tensor:
    """Return images with 0 in the bands that they lack, whose values may be anything."""
    return x if band_mask is None else x.masked_fill(~band_mask[..., None, None], 0.0)


def by_wavelength(
    name: str, x: Tensor, wavelengths: Tensor, band_mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Sort bands by rising wavelength.

    Returns:
        Images, wavelengths and mask in that order, and which band of ``x`` each of them is.

    Raises:
        ValueError: radar, which has codes and no place in the order.
    """
    if bool((wavelengths < 0).any()):
        raise ValueError(f"{name}: bands are taken by wavelength, radar has codes instead")
    order = wavelengths.argsort(stable=True)
    if bool((wavelengths[1:] < wavelengths[:-1]).any()):
        wavelengths, x = wavelengths[order], x[:, order.to(x.device)]
        band_mask = None if band_mask is None else band_mask[:, order.to(x.device)]
    return x, wavelengths, band_mask, order


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
    y = F.conv2d(blanked(x, band_mask), kernel, stride=patch).movedim(1, -1)
    return y + (band_mask.to(bias.dtype) @ bias).to(y.dtype)[:, None, None]


def mean_bands(x: Tensor, weight: Tensor, bias: Tensor, band_mask: Tensor | None = None) -> Tensor:
    """Like ``sum_bands``, divided by the number of bands that are there; zeros for an image that has none."""
    if band_mask is None:
        return sum_bands(x, weight / len(weight), bias / len(bias))
    y = sum_bands(x, weight, bias, band_mask)
    return y / band_mask.sum(1).clamp_min(1).to(y.dtype)[:, None, None, None]


def for_each_mask(make: Callable[[Tensor, Tensor], Tensor], x: Tensor, wavelengths: Tensor, band_mask: Tensor | None) -> Tensor:
    """Apply a function that mixes bands to images which have not all the same ones: images of the same bands together.

    Args:
        make: images (batch, bands, height, width) and the wavelengths of their bands to (batch, rows, columns, dim).
        x, wavelengths, band_mask: of all images; some lack bands.

    Returns:
        What ``make`` returns for each image from its own bands alone.

    Raises:
        ValueError: an image that has no band at all.
    """
    if band_mask is None or bool(band_mask.all()):
        return make(x, wavelengths)
    if not bool(band_mask.any(1).all()):
        raise ValueError("an image has no band: leave it out")
    kinds, kind = torch.unique(band_mask, dim=0, return_inverse=True)
    parts = [make(x[kind == i][:, there], wavelengths[there.to(wavelengths.device)]) for i, there in enumerate(kinds)]
    back = torch.cat([(kind == i).nonzero()[:, 0] for i in range(len(kinds))]).argsort()
    return torch.cat(parts)[back]
