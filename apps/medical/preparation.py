"""From a volume to what the network sees, and from its labels back to the volume's grid.

Training, validation, evaluation and ``geovit segment`` all prepare by this code.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...datasets.volumes import Volume, check_finite
from .plan import Channel, Plan
from .resampling import Line, coded, line, resample, resample_labels

_SAME = 1e-3  # relative difference of spacings that is no reason to resample
_PART = 250_000  # voxels whose statistics are taken at once
_QUANTILE_VOXELS = 4_000_000


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

    Axes are exchanged and flipped to the plan's orientation, never rotated. On axes whose spacing is the plan's to a thousandth,
    voxels stay what they are; else they are interpolated linearly, at positions that begin with the first voxel (as MONAI's
    ``Spacing`` has them), and averaged over about their extent if they become larger and the plan says so.

    Raises:
        ValueError: if the number of channels differs from the plan's, voxels are not finite, or the plan's orientation is none.
    """
    if len(volume.voxels) != len(plan.channels):
        told = ", ".join(channel.name for channel in plan.channels)
        raise ValueError(f"{volume.path} has {len(volume.voxels)} channels, the model wants {len(plan.channels)}: {told}")
    check_finite(volume)
    affine, lines, order = _grid(volume, plan)
    size = [len(on.positions) for on in lines]
    out = torch.empty(len(plan.channels), *size)
    for number, channel in enumerate(plan.channels):
        into = out[number].numpy()
        resample(volume.voxels[number].transpose(order), lines, into)
        _normalise(into, channel)
    return Prepared(out, affine)


def labels_on(volume: Volume, labels_XYZ: NDArray[np.integer], prepared: Prepared) -> NDArray[np.integer]:
    """Bring labels of a prepared grid to the volume's own grid, (i, j, k).

    Each voxel gets the label with the greatest share in it by linear interpolation; on identical grids labels stay what they are.

    Raises:
        ValueError: if the labels are not of the prepared grid, or that is no turned and resampled one of the volume.
    """
    lines, order = _back(volume, labels_XYZ.shape, prepared)
    return np.ascontiguousarray(resample_labels(labels_XYZ, lines).transpose(np.argsort(order)))


def values_on(volume: Volume, values_XYZ: NDArray[np.floating], prepared: Prepared) -> NDArray[np.float32]:
    """Bring real values of a prepared grid, such as a class's probabilities, to the volume's own grid, (i, j, k), linearly.

    Raises:
        ValueError: as ``labels_on``.
    """
    lines, order = _back(volume, values_XYZ.shape, prepared)
    out = np.empty(volume.size, np.float32)
    resample(values_XYZ, lines, out.transpose(order))
    return out


def prepare_labels(volume: Volume, labels_IJK: NDArray[np.integer], plan: Plan, *, name: str = "") -> Tensor:
    """Bring a label map to the grid of ``prepare``, as a network learns it.

    Returns:
        uint8. Classes: (1, x, y, z), 0 for background and 1 + index of the target for others. Regions: (regions, x, y, z), 0 or
        1.

    Raises:
        ValueError: if the map is not on the volume's grid, or has values that belong to no target.
    """
    if labels_IJK.shape != volume.size:
        raise ValueError(f"{name or volume.path}: labels of {labels_IJK.shape} voxels for an image of {volume.size}")
    _, lines, order = _grid(volume, plan)
    nearest = labels_IJK.transpose(order)[np.ix_(*(on.nearest for on in lines))]
    return encode_labels(nearest, plan, name=name or str(volume.path))


def encode_labels(labels_XYZ: NDArray[np.integer], plan: Plan, *, name: str = "labels") -> Tensor:
    """Return labels of files as a network learns them; see ``prepare_labels``."""
    values, codes = coded(labels_XYZ)
    known = {0, *(value for target in plan.targets for value in target.values)}
    if strange := [value for value in values.tolist() if value not in known]:
        raise ValueError(f"{name} has the label value {strange[0]}; those of the plan are {', '.join(map(str, sorted(known)))}")
    tables = np.array(
        [[False, *(value in target.values for value in values.tolist())] for target in plan.targets], dtype=np.uint8
    )
    if not plan.regions:
        if len(plan.targets) > np.iinfo(np.uint8).max:
            raise ValueError(f"{len(plan.targets)} classes: at most 255 are supported")
        tables = (tables * np.arange(1, len(tables) + 1, dtype=np.uint8)[:, None]).sum(axis=0, dtype=np.uint8)[None]
    return torch.stack([torch.from_numpy(table[codes]) for table in tables])


def _grid(volume: Volume, plan: Plan) -> tuple[NDArray[np.float64], list[Line], tuple[int, int, int]]:
    """The new affine, where new voxels lie on the volume's axes, and which of those each new axis is."""
    from nibabel.orientations import axcodes2ornt, io_orientation

    if len(set(plan.orientation.translate(str.maketrans("LPI", "RAS"))) & set("RAS")) != 3 or len(plan.orientation) != 3:
        raise ValueError(f"orientation {plan.orientation!r}: expected one of R or L, A or P, S or I for each axis, as RAS")
    have, want = io_orientation(volume.affine), axcodes2ornt(plan.orientation)
    if np.isnan(have).any():
        raise ValueError(f"{volume.path} has an affine that is not invertible")
    order = [int(np.flatnonzero(have[:, 0] == axis)[0]) for axis in want[:, 0]]
    affine = np.zeros((4, 4))
    affine[:, 3] = volume.affine[:, 3]
    lines = []
    for new, old in enumerate(order):
        n = volume.size[old]
        wanted = plan.spacing[new] if plan.spacing is not None else 0.0
        ratio = wanted / volume.spacing[old] if wanted > 0 else 1.0
        if abs(ratio - 1) < _SAME:
            ratio = 1.0
        flip = have[old, 1] != want[new, 1]
        scale, offset = (-ratio, n - 1.0) if flip else (ratio, 0.0)
        lines.append(line(n, round((n - 1) / ratio + 1), scale=scale, offset=offset, antialias=plan.antialias))
        affine[:, new] = volume.affine[:, old] * scale
        affine[:, 3] += volume.affine[:, old] * offset
    return affine, lines, (order[0], order[1], order[2])


def _back(volume: Volume, size: tuple[int, ...], prepared: Prepared) -> tuple[list[Line], tuple[int, int, int]]:
    """Where the volume's voxels lie on prepared axes, and which of its axes each of those is."""
    if tuple(size) != tuple(prepared.voxels.shape[1:]):
        raise ValueError(f"labels of {tuple(size)} voxels for a prepared image of {tuple(prepared.voxels.shape[1:])}")
    step = np.linalg.inv(prepared.affine) @ volume.affine
    order = np.abs(step[:3, :3]).argmax(axis=1)
    off = step[:3, :3].copy()
    off[np.arange(3), order] = 0
    if len(set(order.tolist())) < 3 or np.abs(off).max() * max(volume.size) > _SAME * 10:
        raise ValueError(f"{volume.path} is not the volume of the prepared image: their axes are not parallel")
    lines = [
        line(n, volume.size[old], scale=float(step[new, old]), offset=float(step[new, 3]))
        for new, (old, n) in enumerate(zip(order.tolist(), size, strict=True))
    ]
    return lines, (int(order[0]), int(order[1]), int(order[2]))


def _normalise(x: NDArray[np.float32], channel: Channel) -> None:
    """Normalise contiguous voxels in place."""
    parts = np.split(x.reshape(-1), range(_PART, x.size, _PART))
    if channel.scheme == "zscore":
        _zscore(parts, channel)
        return
    if channel.low is None or channel.high is None:
        raise ValueError(f"channel {channel.name} is clipped, but the plan has no low and high for it")
    middle, width = channel.low, channel.high - channel.low
    if channel.scheme == "clip_zscore":
        if channel.mean is None or channel.std is None:
            raise ValueError(f"channel {channel.name} is normalised, but the plan has no mean and std for it")
        middle, width = channel.mean, channel.std
    for part in parts:
        np.clip(part, channel.low, channel.high, out=part)
        part -= np.float32(middle)
        part /= np.float32(max(width, 1e-8))


def _zscore(parts: list[NDArray[np.float32]], channel: Channel) -> None:
    def chosen(part: NDArray[np.float32]) -> NDArray[np.float32]:
        return part[part != 0] if channel.nonzero else part

    if channel.percentiles is not None:
        every = -(-sum(part.size for part in parts) // _QUANTILE_VOXELS)
        sample = np.concatenate([chosen(part[::every]) for part in parts])
        if sample.size:
            low, high = np.percentile(sample, channel.percentiles).astype(np.float32)
            for part in parts:
                # Where zeros are background, they must stay what they are, also below the percentile.
                np.clip(part, low, high, out=part, where=(part != 0) if channel.nonzero else True)
    count = max(1, sum(chosen(part).size for part in parts))
    mean = sum(float(chosen(part).sum(dtype=np.float64)) for part in parts) / count
    std = (sum(float(np.square(chosen(part) - np.float32(mean)).sum(dtype=np.float64)) for part in parts) / count) ** 0.5
    for part in parts:
        within = (part != 0) if channel.nonzero else True
        np.subtract(part, np.float32(mean), out=part, where=within)
        np.divide(part, np.float32(max(std, 1e-8)), out=part, where=within)
