"""Pictures of images, of what a network saw of them, and of what it made of that."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ....core.sensors.batch import SensorBatch

_RGB_NM = (665.0, 560.0, 490.0)
_NEAR_NM = 40.0  # a band that is further away shows another colour
_GREY = 128
_GAP = 2  # pixels between pictures


def colours(values: Tensor, wavelengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return how three colours are made of bands: weights (3, bands) and what is taken off before (bands,).

    Red, green and blue where there are such bands; else the three directions in which the values differ most.

    Args:
        values: (batch, bands, height, width).
        wavelengths: (bands,), nm, or below 0.
    """
    bands = len(wavelengths)
    nearest = [(wavelengths - nm).abs().min(0) for nm in _RGB_NM]
    if all(float(distance) <= _NEAR_NM for distance, _ in nearest):
        weights = torch.zeros(3, bands)
        weights[range(3), [int(index) for _, index in nearest]] = 1
        return weights, torch.zeros(bands)
    pixels = values.movedim(1, -1).reshape(-1, bands).double()
    middle = pixels.mean(0)
    _, vectors = torch.linalg.eigh((pixels - middle).T @ (pixels - middle))
    weights = vectors.flip(1)[:, :3].T
    weights = weights * torch.sign(weights.sum(1, keepdim=True) + 1e-12)
    return weights[torch.arange(3) % len(weights)].float(), middle.float()


def panel(batch: SensorBatch, images: Tensor, hidden: Tensor, *, count: int = 4) -> NDArray[np.uint8]:
    """Return a picture (height, width, 3): a row for each image with input, input without hidden places, and reconstruction.

    The brightness of a row is that of its input, between the percentiles 2 and 98. What is no data is black.

    Args:
        batch: the input.
        images: what was made of it, like ``batch.values``.
        hidden: bool (batch, spectral, rows, columns); a place is blanked where all of its spectral tokens are hidden.
        count: images at most.
    """
    values, valid = batch.values[:count].detach().float().cpu(), batch.valid[:count].any(1).cpu()
    weights, middle = colours(values, batch.wavelengths.detach().float().cpu())
    blank = hidden[:count].all(1).cpu()
    scale = values.shape[2] // blank.shape[1]
    blank = blank.repeat_interleave(scale, 1).repeat_interleave(scale, 2)

    def colour(x: Tensor) -> Tensor:
        return torch.einsum("cb,bhw->hwc", weights, x - middle[:, None, None])

    rows = []
    for source, made, there, gone in zip(values, images[:count].detach().float().cpu(), valid, blank, strict=True):
        input_HWC = colour(source)
        shown = input_HWC[there] if bool(there.any()) else input_HWC.flatten(0, 1)
        low, high = torch.quantile(shown[:50_000], torch.tensor([0.02, 0.98]), dim=0)
        pictures = [((x - low) / (high - low).clamp_min(1e-6) * 255).clamp(0, 255) for x in (input_HWC, colour(made))]
        first, last = (picture.where(there[..., None], 0.0) for picture in pictures)
        rows.append(_joined([first, first.where(~gone[..., None], float(_GREY)), last], 1))
    return _joined(rows, 0).to(torch.uint8).numpy()


def _joined(pictures: list[Tensor], axis: int) -> Tensor:
    """Put pictures beside each other with white between."""
    shape = list(pictures[0].shape)
    shape[axis] = _GAP
    gap = torch.full(shape, 255.0)
    return torch.cat([part for picture in pictures for part in (gap, picture)][1:], dim=axis)
