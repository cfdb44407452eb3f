"""What an auto-encoder predicts, and how far off it is.

Errors are means over what counts in an image, and of these the mean over the batch: a process that has a part of the batch needs
nothing of the others, and an image with little to see weighs no less.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ....core.sensors.batch import SensorBatch

PatchNorm = Literal["none", "band", "place"]


@dataclass(frozen=True, eq=False)
class PatchScale:
    """Mean and deviation of patches: each (batch, bands or 1, rows, 1, columns, 1)."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, image: Tensor, valid: Tensor, patch: int, over: Literal["band", "place"]) -> "PatchScale":
        """Measure the valid pixels of each patch: He et al. 2022, section 4.1, where 1e-6 is added to a sample's variance.

        Args:
            image: (batch, bands, height, width), finite.
            valid: bool, like ``image``.
            patch: pixels on a side.
            over: "band": each band on its own; "place": all bands together.
        """
        axes = (3, 5) if over == "band" else (1, 3, 5)
        x, there = patches(image, patch), patches(valid, patch)
        count = there.sum(axes, keepdim=True)
        mean = x.where(there, 0.0).sum(axes, keepdim=True) / count.clamp_min(1)
        square = (x - mean).where(there, 0.0).square().sum(axes, keepdim=True)
        return cls(mean, (square / (count - 1).clamp_min(1) + 1e-6).sqrt())

    def apply(self, image: Tensor) -> Tensor:
        """Take off the mean, divide by the deviation: (batch, bands, height, width)."""
        x = patches(image, image.shape[2] // self.mean.shape[2])
        return ((x - self.mean) / self.deviation).reshape(image.shape)

    def undo(self, image: Tensor) -> Tensor:
        """Turn around ``apply``."""
        x = patches(image, image.shape[2] // self.mean.shape[2])
        return (x * self.deviation + self.mean).reshape(image.shape)


def patches(image: Tensor, patch: int) -> Tensor:
    """View (batch, bands, height, width) as (batch, bands, rows, patch, columns, patch)."""
    return image.reshape(*image.shape[:2], image.shape[2] // patch, patch, image.shape[3] // patch, patch)


def squared_error(image: Tensor, target: Tensor, counts: Tensor) -> Tensor:
    """Return the mean squared error, in float32.

    Args:
        image: (batch, bands, height, width), predicted.
        target: like ``image``; where it does not count it may be anything.
        counts: bool, like ``image``.
    """
    error = (image.float() - target.float()).where(counts, 0.0).flatten(1)
    squares: Tensor = torch.linalg.vecdot(error, error)
    return (squares / counts.flatten(1).sum(1).clamp_min(1)).mean()


def absolute_error(image: Tensor, target: Tensor, counts: Tensor) -> Tensor:
    """Return the mean absolute error, in float32; arguments of ``squared_error``."""
    error = (image.float() - target.float()).where(counts, 0.0).abs().flatten(1).sum(1)
    return (error / counts.flatten(1).sum(1).clamp_min(1)).mean()


def spectral_error(image: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Return the mean squared error of a pixel's sum over its bands, divided by their number; arguments of ``squared_error``.

    Errors that are independent in each band give what ``squared_error`` gives; those that all bands share weigh more. After
    Hong et al. 2024 (SpectralGPT), section III-C, whose sums are over every third band.
    """
    error = (image.float() - target.float()).where(valid, 0.0).sum(1).square() / valid.sum(1).clamp_min(1)
    return (error.flatten(1).sum(1) / valid.any(1).flatten(1).sum(1).clamp_min(1)).mean()


def shrink(batch: SensorBatch, factor: int) -> SensorBatch:
    """Return images of larger pixels, each the mean of the valid ones in it; one is valid if any of those is.

    Raises:
        ValueError: a size that is no multiple of the factor.
    """
    size = tuple(batch.values.shape[2:])
    if size[0] % factor or size[1] % factor:
        raise ValueError(f"images of {size[0]} x {size[1]} pixels cannot be reduced to 1/{factor}: take a multiple")
    share = F.avg_pool2d(batch.valid.to(batch.values.dtype), factor)
    values = F.avg_pool2d(batch.values.where(batch.valid, 0.0), factor)
    valid = share > 0
    return replace(batch, values=values / share.where(valid, 1.0), valid=valid, gsd=batch.gsd * factor)
