"""Targets of pretraining on patches of groups of bands.

Shapes: B batch, C bands, H, W pixels; G groups, R rows and K columns of patches.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .targets import patches

Groups = Sequence[Sequence[int]]


def normalize_patches(image: Tensor, patch: int, groups: Groups) -> Tensor:
    """Take off each patch its mean and divide by its deviation, over all bands of a group together: (B, C, H, W).

    Source: He et al. 2022 (MAE), section 4.1; the variance is that of a sample, 1e-6 is added to it.
    """
    normal = torch.empty_like(image)
    for group in groups:
        x = patches(image[:, list(group)], patch)
        mean, variance = x.mean((1, 3, 5), keepdim=True), x.var((1, 3, 5), keepdim=True)
        normal[:, list(group)] = ((x - mean) / (variance + 1e-6).sqrt()).flatten(4, 5).flatten(2, 3)
    return normal


def group_error(image: Tensor, target: Tensor, hidden: Tensor, groups: Groups) -> Tensor:
    """Return the mean squared error of hidden patches; each weighs the same, whatever the number of bands in its group.

    Args:
        image, target: (B, C, H, W).
        hidden: bool (B, G, R, K).
        groups: bands of each spectral token.
    """
    error = (image - target).square()
    patch = image.shape[2] // hidden.shape[2]
    means = torch.stack([patches(error[:, list(group)], patch).mean((1, 3, 5)) for group in groups], dim=1)
    total: Tensor = (means * hidden).sum() / hidden.sum()
    return total


def spectral_sum_error(image: Tensor, target: Tensor, depth: int) -> Tensor:
    """Return the mean squared error of sums over the spectrum, hidden or not.

    Of cubes of ``depth`` neighbouring bands each first band is summed, each second, and so on.

    Source: Hong et al. 2024 (SpectralGPT), section III-C.

    Raises:
        ValueError: if the bands are no multiple of ``depth``.
    """
    if image.shape[1] % depth:
        raise ValueError(f"spectral_sum_error: {image.shape[1]} bands are no multiple of {depth}")
    error = torch.unflatten(image - target, 1, (-1, depth)).sum(1)
    return error.square().mean()
