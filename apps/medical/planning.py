"""From a fingerprint to a plan, each choice with its reason."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...datasets.cases import CaseSet
from .fingerprint import Fingerprint
from .plan import Channel, Plan, Target

_ANISOTROPIC = 3.0  # slices this many times as thick as voxels are wide
_CT = re.compile(r"(?i)(^|[^a-z0-9])(ct|hu|hounsfield|computed tomography)([^a-z0-9]|$)")
_EMPTY = 0.25  # share of exact zeros from which they are taken for background that was cut away
_TOO_LARGE = 1.5  # how far a ROI may exceed the median image
_RARE = 4.0  # ratio of voxels between classes, up to which they weigh the same
_WEIGHTS = (0.5, 3.0)
_CLIP = (0.5, 99.5)
_MULTIPLE = 32  # of the ROI, where nothing tells what the network wants


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a user wants otherwise than the fingerprint says.

    Args:
        axes: 3, or 2 for networks on slices.
        multiple: of which the ROI is on each axis; the default is what the network wants, and others are multiples of that.
        roi: voxels of the ROI; the default follows from the images and ``voxels``.
        voxels: the most that a ROI may have, a matter of memory.
        spacing: millimetres; the default follows from the images.
        weighted: whether rare classes weigh more.
        antialias: whether images are smoothed before they are made coarser.
    """

    axes: int = 3
    multiple: int | None = None
    roi: tuple[int, ...] | None = None
    voxels: int = 96**3
    spacing: tuple[float, float, float] | None = None
    weighted: bool = True
    antialias: bool = True


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A plan, and for each of its parts what was chosen and why."""

    plan: Plan
    reasons: tuple[tuple[str, str, str], ...]

    def __rich__(self) -> "object":
        """Return a table of part, choice and reason."""
        from rich.table import Table

        table = Table("plan", "chosen", "because")
        for row in self.reasons:
            table.add_row(*row)
        return table

    def to_dict(self) -> dict[str, dict[str, str]]:
        """Return the reasons as JSON would hold them."""
        return {part: {"chosen": chosen, "because": reason} for part, chosen, reason in self.reasons}


def plan_of(fingerprint: Fingerprint, case_set: CaseSet, wishes: Wishes | None = None) -> Plan:
    """Return the plan of ``choose``."""
    return choose(fingerprint, case_set, wishes).plan


def choose(fingerprint: Fingerprint, case_set: CaseSet, wishes: Wishes | None = None) -> Choice:
    """Choose a plan for training cases.

    The rules: spacing is the median, but a tenth-percentile on an axis of thick slices (as nnU-Net does, Isensee et al. 2021,
    supplement "target spacing"); the ROI is about the median image, as far as memory goes; CT is clipped to percentiles of the
    labelled voxels and normalised by their mean, all else by its own mean; rare classes weigh more.

    Raises:
        ValueError: if the cases have other channels or labels than their set says, or a wish cannot be fulfilled.
    """
    wishes = wishes or Wishes()
    count = len(fingerprint.cases[0].channels)
    if count != len(case_set.channels):
        raise ValueError(f"images have {count} channels, but {len(case_set.channels)} are named: {', '.join(case_set.channels)}")
    if wishes.axes not in (2, 3):
        raise ValueError(f"networks have 2 or 3 axes, not {wishes.axes}")
    reasons: list[tuple[str, str, str]] = []
    spacing, order = _spacing(fingerprint, wishes, reasons)
    roi = _roi(fingerprint, spacing, order, wishes, reasons)
    channels = tuple(_channel(fingerprint, number, name, reasons) for number, name in enumerate(case_set.channels))
    targets = _targets(fingerprint, case_set, wishes, reasons)
    plan = Plan(
        channels=channels,
        targets=targets,
        regions=case_set.regions,
        orientation="".join("RAS"[axis] for axis in order),
        spacing=spacing,
        roi=roi,
        antialias=wishes.antialias,
    )
    return Choice(plan=plan, reasons=tuple(reasons))


def _spacing(
    fingerprint: Fingerprint, wishes: Wishes, reasons: list[tuple[str, str, str]]
) -> tuple[tuple[float, float, float], list[int]]:
    """Spacing in the order of the plan's axes, and which of right, front, top those are."""
    spacings = fingerprint.spacings
    median, sizes = np.median(spacings, axis=0), np.median(fingerprint.sizes, axis=0)
    order = [0, 1, 2]
    coarse = int(np.argmax(median))
    others = [axis for axis in order if axis != coarse]
    thick = median[coarse] > _ANISOTROPIC * median[others].max()
    if wishes.axes == 2 and thick:
        order = [*others, coarse]
    codes = "".join("RAS"[axis] for axis in order)
    because = (
        "one orientation for all, so that left is left" if order == [0, 1, 2] else "the thick axis last: slices lie across it"
    )
    reasons.append(("orientation", codes, because))
    target, why = median.copy(), f"the median of {len(spacings)} cases"
    if np.ptp(spacings, axis=0).max() < 1e-2 * median.min():
        why = f"that of all {len(spacings)} cases"
    elif thick and sizes[coarse] * _ANISOTROPIC < sizes[others].min():
        target[coarse] = max(np.percentile(spacings[:, coarse], 10), median[others].max())
        times = median[coarse] / median[others].max()
        why = f"the median, and the 10th percentile across the slices, which are {times:.1f} times as thick"
    chosen = [float(round(target[axis], 4)) for axis in order]
    if wishes.spacing is not None:
        if len(wishes.spacing) != 3 or not all(0 <= length < math.inf for length in wishes.spacing):
            raise ValueError(f"spacing {_times(wishes.spacing)}: expected three lengths in mm")
        chosen, why = list(wishes.spacing), f"as given; the median is {_times(median.round(3).tolist())}"
    elif wishes.axes == 2:
        chosen[2], why = 0.0, why + "; slices stay as they are"
    reasons.append(("spacing", _times([length for length in chosen if length] or chosen) + " mm", why))
    return (chosen[0], chosen[1], chosen[2]), order


def _roi(
    fingerprint: Fingerprint,
    spacing: tuple[float, float, float],
    order: Sequence[int],
    wishes: Wishes,
    reasons: list[tuple[str, str, str]],
) -> tuple[int, ...]:
    own = fingerprint.spacings[:, order]
    target = np.where(np.array(spacing) > 0, spacing, own)
    median = np.median(fingerprint.sizes[:, order] * own / target, axis=0)[: wishes.axes]
    shown = _times([round(size) for size in median])
    step = wishes.multiple or _MULTIPLE
    if wishes.roi is not None:
        if len(wishes.roi) != wishes.axes or any(size < 1 or size % step for size in wishes.roi):
            raise ValueError(f"ROI {_times(wishes.roi)}: expected {wishes.axes} multiples of {step}")
        reasons.append(("roi", _times(wishes.roi), f"as given; the median image has {shown} voxels"))
        return wishes.roi
    roi = [max(step, math.ceil(size / step) * step) for size in median]
    roi = [size - step if size > step and size > _TOO_LARGE * real else size for size, real in zip(roi, median, strict=True)]
    why = f"the median image has {shown} voxels"
    limit = wishes.voxels if wishes.axes == 3 else max(step**2, round(wishes.voxels ** (2 / 3)) * 4)
    while math.prod(roi) > limit and max(roi) > step:
        # The axis that is seen most of gives way, so that every axis is seen to about the same share.
        axis = max((a for a in range(len(roi)) if roi[a] > step), key=lambda a: (roi[a] / median[a], roi[a]))
        roi[axis] -= step
        why = f"at most {limit} voxels of the median image's {shown}"
    reasons.append(("roi", _times(roi), f"{why}; multiples of {step}"))
    return tuple(roi)


def _channel(fingerprint: Fingerprint, number: int, name: str, reasons: list[tuple[str, str, str]]) -> Channel:
    part = f"channel {name}"
    if _CT.search(name):
        pooled = fingerprint.pooled[number]
        chosen = f"clipped to {pooled.low:.4g}..{pooled.high:.4g}, minus {pooled.mean:.4g}, over {pooled.std:.4g}"
        because = "CT has one unit: percentiles 0.5 and 99.5, mean and deviation of the labelled voxels"
        if units := fingerprint.with_other_units(number):
            because += f"; but {len(units)} images are in other units"
        reasons.append((part, chosen, because))
        std = max(pooled.std, 1e-6)
        return Channel(name=name, scheme="clip_zscore", low=pooled.low, high=pooled.high, mean=pooled.mean, std=std)
    zeros = float(np.median([case.channels[number].zeros for case in fingerprint.cases]))
    nonzero = zeros >= _EMPTY
    because = "no CT by its name: each image by its own mean and deviation"
    if nonzero:
        because += f", of voxels other than 0, which {zeros:.0%} are"
    tails, units = fingerprint.with_tails(number), fingerprint.with_other_units(number)
    clip = _CLIP if tails else None
    if tails:
        because += f"; clipped to its percentiles 0.5 and 99.5, as {len(tails)} of {len(fingerprint.cases)} images have outliers"
    if units:
        because += f"; {len(units)} images are in other units"
    reasons.append((part, "z-score" + (" of clipped values" if clip else ""), because))
    return Channel(name=name, scheme="zscore", nonzero=nonzero, percentiles=clip)


def _targets(
    fingerprint: Fingerprint, case_set: CaseSet, wishes: Wishes, reasons: list[tuple[str, str, str]]
) -> tuple[Target, ...]:
    found = fingerprint.labels
    values = [value for value in found if value != 0]
    if case_set.targets is None:
        if not values:
            raise ValueError("no training case has labels other than 0")
        named: list[tuple[str, tuple[int, ...], int]] = [(str(value), (value,), value) for value in values]
        why = "the values in the label maps, which nothing names"
    else:
        named = [(target.name, target.values, target.output) for target in case_set.targets]
        why = f"named by {case_set.source.name}" if case_set.source is not None else "as given"
        if empty := [name for name, those, _ in named if not any(found.get(value) for value in those)]:
            has = ", ".join(map(str, found))
            raise ValueError(f"no training case has voxels of {', '.join(empty)}: the label values are {has}")
    voxels = {name: sum(found.get(value, 0) for value in those) for name, those, _ in named}
    weights = dict.fromkeys(voxels, 1.0)
    reasons.append(("regions" if case_set.regions else "classes", ", ".join(voxels), why))
    if wishes.weighted and max(voxels.values()) > _RARE * min(voxels.values()):
        middle = float(np.median(list(voxels.values())))
        weights = {name: float(np.clip(math.sqrt(middle / count), *_WEIGHTS).round(3)) for name, count in voxels.items()}
        ratio = max(voxels.values()) / min(voxels.values())
        because = f"the most frequent has {ratio:.0f} times the voxels of the rarest: root of the inverse frequency"
        reasons.append(("weights", ", ".join(f"{name} {weight:g}" for name, weight in weights.items()), because))
    else:
        reasons.append(("weights", "equal", "frequencies are alike" if wishes.weighted else "as given"))
    return tuple(Target(name=name, values=those, output=output, weight=weights[name]) for name, those, output in named)


def _times(lengths: Sequence[float]) -> str:
    return " x ".join(f"{length:g}" for length in lengths)
