"""Crops for training: where they are cut, and how MONAI's transforms alter them."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .plan import Plan

Batch = dict[str, Tensor]

_ANISOTROPIC = 2.0  # ratio of spacings from which images are turned about the coarse axis only: else voxels would shear
_SIDES = re.compile(r"(?i)(^|[^a-z])(left|right|l|r|lt|rt|lh|rh)([^a-z]|$)")


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """How crops are chosen and altered; probabilities are of each crop.

    Args:
        foreground: share of crops around a voxel of a target, all targets of a case with equal chances; the rest lie anywhere.
        flip: probability on each of ``flip_axes``.
        flip_axes: of the plan's orientation; None: all, but for left and right if targets are named by side.
        affine: probability of turning and zooming.
        degrees: by which images are turned at most, about each axis; only about a coarse one, where voxels are far from cubes.
        zoom: by which images grow or shrink at most, as a share.
        noise: probability of Gaussian noise.
        noise_std: its standard deviation at most, in normalised intensities.
        smooth: probability of Gaussian smoothing, sigma 0.5 to 1 voxels.
        intensity: probability of another scale, and of another offset.
        intensity_range: how much of either at most.
        gamma: probability of another gamma, 0.7 to 1.5.
    """

    foreground: float = 0.67
    flip: float = 0.5
    flip_axes: tuple[int, ...] | None = None
    affine: float = 0.3
    degrees: float = 15.0
    zoom: float = 0.15
    noise: float = 0.15
    noise_std: float = 0.1
    smooth: float = 0.1
    intensity: float = 0.3
    intensity_range: float = 0.15
    gamma: float = 0.15


class Augmentations:
    """Cut a crop from a prepared case and alter it, by one generator.

    Args:
        config: how.
        plan: whose ROI is cut, two- or three-dimensional.

    Raises:
        ValueError: for a probability outside 0 to 1, or an axis that the ROI does not have.
    """

    def __init__(self, config: AugmentationConfig, plan: Plan) -> None:
        for name in ("foreground", "flip", "affine", "noise", "smooth", "intensity", "gamma"):
            if not 0 <= getattr(config, name) <= 1:
                raise ValueError(f"augmentation: {name} is a probability, not {getattr(config, name)}")
        if not 0 <= config.zoom < 1:
            raise ValueError(f"augmentation: zoom {config.zoom}: allowed are shares from 0 to below 1")
        self._config, self._plan = config, plan
        self._axes = len(plan.roi)
        self._flips = flip_axes(plan) if config.flip_axes is None else config.flip_axes
        if strange := [axis for axis in self._flips if not 0 <= axis < self._axes]:
            raise ValueError(f"augmentation: no axis {strange[0]} to flip; there are 0 to {self._axes - 1}")

    def __call__(self, voxels: Tensor, label: Tensor, places: Sequence[Tensor], generator: np.random.Generator) -> Batch:
        """Return {"image": (channels, *roi) float32, "label": (1 or regions, *roi) uint8}.

        Args:
            voxels: (channels, x, y, z).
            label: uint8, (1, x, y, z) or (regions, x, y, z).
            places: of each target, (n, 3) voxels that belong to it.
            generator: that all follows from.
        """
        turned = generator.random() < self._config.affine and bool(self._config.degrees or self._config.zoom)
        size = self._enlarged if turned else self._plan.roi
        box = (*size, 1)[:3]
        centre = self._centre(voxels.shape[1:], places, generator)
        found: dict[str, Any] = {"image": crop(voxels, centre, box), "label": crop(label, centre, box)}
        if self._axes == 2:
            found = {key: x[..., 0] for key, x in found.items()}
        steps = ([self._affine] if turned else []) + [self._rest]
        for step in steps:
            step.set_random_state(seed=int(generator.integers(2**31)))
            found = step(found)
        return {"image": _plain(found["image"], torch.float32), "label": _plain(found["label"], torch.uint8)}

    def _centre(self, size: Sequence[int], places: Sequence[Tensor], generator: np.random.Generator) -> tuple[int, ...]:
        """A voxel of a target, or any from which a crop stays within the image."""
        present = [place for place in places if len(place)]
        if present and generator.random() < self._config.foreground:
            place = present[int(generator.integers(len(present)))]
            return tuple(place[int(generator.integers(len(place)))].tolist())
        box = (*self._plan.roi, 1)[:3]
        begins = [int(generator.integers(max(n - b, 0) + 1)) for n, b in zip(size, box, strict=True)]
        return tuple(begin + b // 2 for begin, b in zip(begins, box, strict=True))

    @cached_property
    def _enlarged(self) -> tuple[int, ...]:
        """Size of a crop whose middle is full of image after turning and shrinking; odd on the axes on which the ROI is."""
        roi, angle = self._plan.roi, math.radians(min(self._config.degrees, 45.0))
        wide = [
            (n * math.cos(angle) + max(m for b, m in enumerate(roi) if b != a) * math.sin(angle)) / (1 - self._config.zoom)
            for a, n in enumerate(roi)
        ]
        return tuple(n + 2 * math.ceil(max(w - n, 0) / 2) for n, w in zip(roi, wide, strict=True))

    @cached_property
    def _affine(self) -> Any:
        from monai.transforms import RandAffined

        angle = math.radians(self._config.degrees)
        angles = [angle] * 3 if self._axes == 3 else [angle]
        spacing = self._plan.spacing
        if self._axes == 3 and spacing is not None and min(spacing) > 0 and max(spacing) > _ANISOTROPIC * min(spacing):
            angles = [angle if axis == int(np.argmax(spacing)) else 0.0 for axis in range(3)]
        return RandAffined(
            keys=("image", "label"),
            prob=1.0,
            spatial_size=self._plan.roi,
            rotate_range=angles,
            scale_range=[self._config.zoom] * self._axes,
            mode=("bilinear", "nearest"),
            padding_mode="zeros",
        )

    @cached_property
    def _rest(self) -> Any:
        from monai.transforms import (
            Compose,
            RandAdjustContrastd,
            RandFlipd,
            RandGaussianNoised,
            RandGaussianSmoothd,
            RandScaleIntensityd,
            RandShiftIntensityd,
        )

        config = self._config
        both, sigma = ("image", "label"), (0.5, 1.0)
        steps: list[Any] = [RandFlipd(both, prob=config.flip, spatial_axis=axis) for axis in self._flips if config.flip]
        if config.noise:
            steps.append(RandGaussianNoised("image", prob=config.noise, std=config.noise_std))
        if config.smooth:
            steps.append(RandGaussianSmoothd("image", prob=config.smooth, sigma_x=sigma, sigma_y=sigma, sigma_z=sigma))
        if config.intensity:
            steps.append(RandScaleIntensityd("image", prob=config.intensity, factors=config.intensity_range))
            steps.append(RandShiftIntensityd("image", prob=config.intensity, offsets=config.intensity_range))
        if config.gamma:
            steps.append(RandAdjustContrastd("image", prob=config.gamma, gamma=(0.7, 1.5)))
        return Compose(steps)


def flip_axes(plan: Plan) -> tuple[int, ...]:
    """Axes on which a mirrored image is as likely as the image: all, but left and right only if no target is named by side."""
    sided = any(_SIDES.search(target.name) for target in plan.targets)
    return tuple(axis for axis in range(len(plan.roi)) if not (sided and plan.orientation[axis] in "LR"))


def crop(x: Tensor, centre: Sequence[int], size: Sequence[int]) -> Tensor:
    """Cut a box out of (channels, x, y, z).

    The box lies around ``centre``, but inside the image; on axes on which the image is smaller, it lies in the middle, with
    zeros on both sides.
    """
    where, pads = [], []
    for n, middle, want in zip(x.shape[1:], centre, size, strict=True):
        begin = min(max(middle - want // 2, 0), max(n - want, 0))
        where.append(slice(begin, begin + want))
        lacking = max(want - n, 0)
        pads.append((lacking // 2, lacking - lacking // 2))
    cut = x[(slice(None), *where)]
    flat = [pad for pair in reversed(pads) for pad in pair]
    return F.pad(cut, flat) if any(flat) else cut.clone()


def _plain(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor without MONAI's metadata."""
    return (x.as_tensor() if hasattr(x, "as_tensor") else x).to(dtype).contiguous()
