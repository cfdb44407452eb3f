"""From a volume to what the network sees, and from its labels back to the volume's grid."""

from dataclasses import dataclass

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation, ResampleToMatch, Spacing
from numpy.typing import NDArray
from torch import Tensor

from ...datasets.volumes import Volume
from .plan import Channel, Plan


@dataclass(frozen=True)
class Prepared:
    """An image as the network sees it.

    Args:
        voxels: (channels, x, y, z) float32, turned, resampled and normalised.
        affine: (4, 4) of that grid, RAS+ mm.
    """

    voxels: Tensor
    affine: NDArray[np.float64]


def prepare(volume: Volume, plan: Plan) -> Prepared:
    """Turn, resample and normalise an image as a plan says.

    Raises:
        ValueError: if the number of channels differs from the plan's, or voxels are not finite.
    """
    if len(volume.voxels) != len(plan.channels):
        told = ", ".join(channel.name for channel in plan.channels)
        raise ValueError(f"{volume.path} has {len(volume.voxels)} channels, the model wants {len(plan.channels)}: {told}")
    x = MetaTensor(torch.from_numpy(volume.voxels.astype(np.float32)), affine=torch.from_numpy(volume.affine))
    x = Orientation(axcodes=plan.orientation, labels=None)(x)
    if plan.spacing is not None:
        x = Spacing(pixdim=plan.spacing, mode="bilinear")(x)
    affine = x.affine.numpy().astype(np.float64)
    normalised = [_normalised(c, channel) for c, channel in zip(x.as_tensor(), plan.channels, strict=True)]
    return Prepared(torch.stack(normalised), affine)


def labels_on(volume: Volume, labels_XYZ: NDArray[np.integer], prepared: Prepared) -> NDArray[np.integer]:
    """Bring labels of a prepared grid to the volume's own grid, (i, j, k)."""
    labels = MetaTensor(torch.from_numpy(labels_XYZ[None].astype(np.float32)), affine=torch.from_numpy(prepared.affine))
    like = MetaTensor(torch.empty(1, *volume.size), affine=torch.from_numpy(volume.affine))
    found: NDArray[np.integer] = ResampleToMatch(mode="nearest", padding_mode="border")(labels, like)[0].numpy()
    return found.astype(labels_XYZ.dtype)


def _normalised(x: Tensor, channel: Channel) -> Tensor:
    if channel.scheme == "zscore":
        chosen = x[x != 0] if channel.nonzero else x
        y = (x - chosen.mean()) / chosen.std().clamp_min(1e-8)
        return torch.where(x == 0, 0, y) if channel.nonzero else y
    assert channel.low is not None
    assert channel.high is not None
    clipped = x.clamp(channel.low, channel.high)
    if channel.scheme == "range":
        return (clipped - channel.low) / (channel.high - channel.low)
    assert channel.mean is not None
    assert channel.std is not None
    return (clipped - channel.mean) / channel.std
