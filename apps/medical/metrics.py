"""How well a label map agrees with the truth: overlap, distances of surfaces, volumes; and what holds where nothing is there.

Definitions, which published figures differ in:

- Dice: twice the voxels in common over the sum of both.
- Surface: the voxels of a mask with at least one of their neighbours across a face outside; outside the image is outside.
- HD95: the 95th percentile (linear between ranks) of the distances from each surface voxel to the nearest of the other surface,
  for each direction; then the greater of the two. In millimetres between voxel centres, in float64. This is MONAI's, the BraTS
  challenges' and Metrics Reloaded's (Maier-Hein et al. 2024, Nat Methods 21:195). Others (medpy) pool both directions before the
  percentile, where the larger surface hides the errors of the smaller one.
- Surface Dice at a tolerance (Nikolov et al. 2021, J Med Internet Res 23:e26151): the share of the voxels of both surfaces that
  are no further than that from the other surface. Voxels are counted, as MONAI does by default, not weighted by area.

A grid with a single voxel on an axis is a slice: its surface is the outline.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects
from scipy.spatial import KDTree

from .plan import Target, painted

Empty = Literal["nan", "monai", "one", "brats"]
Missing = Literal["both", "truth", "prediction"]

EMPTY_RULES: Mapping[Empty, str] = {
    "nan": "both empty: left out; one empty: Dice and surface Dice 0, HD95 left out",
    "monai": "both empty: left out; one empty: Dice 0 (truth empty: left out), surface Dice 0, HD95 left out",
    "one": "both empty: Dice and surface Dice 1, HD95 0; one empty: Dice and surface Dice 0, HD95 left out",
    "brats": "both empty: Dice and surface Dice 1, HD95 0; one empty: Dice and surface Dice 0, HD95 the image's diagonal",
}
"""What holds for a target that is not in the truth, the prediction or either, by name of the rule.

"nan" is that of nnU-Net. "monai" is that of MONAI's metrics as they are by default, whose Dice is blind to false alarms in cases
without the target, and "one" that of its Dice with ``ignore_empty=False``. "brats" is that of the BraTS challenges, whose
240 x 240 x 155 voxels of 1 mm have a diagonal of 373.13 mm.
"""

# Millimetres: spacings come from files in single precision, and three voxels of 0.7 mm are to be within 2.1 mm.
_SLACK = 1e-5


@dataclass(frozen=True, kw_only=True)
class Score:
    """Figures of one target in one case; not-a-number is left out of means.

    Args:
        dice: 0 to 1.
        hd95: mm.
        surface_dice: 0 to 1.
        predicted_ml, truth_ml: volumes in millilitres.
        missing: where the target is not: then the figures are those of the rule for empty masks.
    """

    dice: float
    hd95: float
    surface_dice: float
    predicted_ml: float
    truth_ml: float
    missing: Missing | None = None


def measure(
    predicted_XYZ: NDArray[Any],
    truth_XYZ: NDArray[Any],
    targets: Sequence[Target],
    regions: bool,
    spacing: Sequence[float],
    *,
    tolerance: float = 1.0,
    empty: Empty = "nan",
    surfaces: bool = True,
) -> dict[str, Score]:
    """Return the figures of each target, by name.

    Args:
        predicted_XYZ: labels with the targets' ``output`` values; two axes or three.
        truth_XYZ: labels with the targets' ``values``, on the same grid.
        targets: as in a plan.
        regions: whether targets overlap: then what was painted over a region, and is made of values of it, counts as it, too.
        spacing: mm between voxels on each axis.
        tolerance: of surface Dice, mm.
        empty: name of a rule in ``EMPTY_RULES``.
        surfaces: whether to measure distances; else HD95 and surface Dice are not-a-number. Dice alone is much quicker.

    Raises:
        ValueError: for grids that differ, labels that are no integers, or a negative tolerance.
    """
    if predicted_XYZ.shape != truth_XYZ.shape or len(spacing) != truth_XYZ.ndim:
        told = f"{list(predicted_XYZ.shape)} and {list(truth_XYZ.shape)} voxels with {len(spacing)} spacings"
        raise ValueError(f"labels of {told}: expected one grid")
    for labels in (predicted_XYZ, truth_XYZ):
        if labels.dtype.kind not in "iu":
            raise ValueError(f"labels are {labels.dtype}: expected integers")
    if not tolerance >= 0:
        raise ValueError(f"tolerance is {tolerance}: expected 0 mm or more")
    boxes = [find_objects(labels) for labels in (predicted_XYZ, truth_XYZ)]
    diagonal = math.hypot(*(size * step for size, step in zip(truth_XYZ.shape, spacing, strict=True)))
    single = tuple(axis for axis, size in enumerate(truth_XYZ.shape) if size == 1 and axis)
    steps = [step for axis, step in enumerate(spacing) if axis not in single]
    scores = {}
    for target in targets:
        values = painted(target, targets) if regions else (target.output,), target.values
        box = _union([box for found, wanted in zip(boxes, values, strict=True) for box in _boxes(found, wanted)])
        predicted, truth = (
            np.isin(labels[box], wanted).squeeze(single)
            for labels, wanted in zip((predicted_XYZ, truth_XYZ), values, strict=True)
        )
        volumes = [int(np.count_nonzero(mask)) * math.prod(spacing) / 1000 for mask in (predicted, truth)]
        missing: Missing | None = None
        if not all(volumes):
            missing = "both" if not any(volumes) else "truth" if volumes[0] else "prediction"
            dice, hd95, surface_dice = _by_rule(empty, missing, diagonal)
        else:
            dice = 2 * int(np.count_nonzero(predicted & truth)) / int(np.count_nonzero(predicted) + np.count_nonzero(truth))
            hd95, surface_dice = _of_surfaces(predicted, truth, steps, tolerance) if surfaces else (math.nan, math.nan)
        scores[target.name] = Score(
            dice=dice,
            hd95=hd95 if surfaces else math.nan,
            surface_dice=surface_dice if surfaces else math.nan,
            predicted_ml=volumes[0],
            truth_ml=volumes[1],
            missing=missing,
        )
    return scores


def predicted_values(targets: Sequence[Target]) -> set[int]:
    """Return the values that a predicted label map may have."""
    return {0, *(target.output for target in targets)}


def true_values(targets: Sequence[Target]) -> set[int]:
    """Return the values that a true label map may have."""
    return {0, *(value for target in targets for value in target.values)}


def _boxes(found: list[tuple[slice, ...] | None], values: Sequence[int]) -> list[tuple[slice, ...]]:
    return [box for value in values if 0 < value <= len(found) and (box := found[value - 1]) is not None]


def _union(boxes: list[tuple[slice, ...]]) -> tuple[slice, ...]:
    """Return the box around boxes; of none, all of the image, where no target is then."""
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes, strict=True))


def _by_rule(empty: Empty, missing: Missing, diagonal: float) -> tuple[float, float, float]:
    """Dice, HD95 and surface Dice where there is nothing to measure."""
    if missing == "both":
        return (math.nan,) * 3 if empty in ("nan", "monai") else (1.0, 0.0, 1.0)
    unseen = empty == "monai" and missing == "truth"
    return math.nan if unseen else 0.0, diagonal if empty == "brats" else math.nan, 0.0


def _of_surfaces(
    predicted: NDArray[np.bool_], truth: NDArray[np.bool_], spacing: Sequence[float], tolerance: float
) -> tuple[float, float]:
    """HD95 and surface Dice of two masks that are not empty."""
    surfaces = _surface(predicted), _surface(truth)
    there, back = _distances(*surfaces, spacing), _distances(*surfaces[::-1], spacing)
    within = sum(int(np.count_nonzero(d <= tolerance + _SLACK)) for d in (there, back))
    return max(float(np.percentile(d, 95)) for d in (there, back)), within / (len(there) + len(back))


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels of a mask with a neighbour across a face that is not in it."""
    padded = np.pad(mask, 1)
    inside = mask.copy()
    for axis in range(mask.ndim):
        for shift in (0, 2):
            neighbours = tuple(slice(shift, shift + size) if a == axis else slice(1, -1) for a, size in enumerate(mask.shape))
            inside &= padded[neighbours]
    return mask & ~inside


def _distances(start: NDArray[np.bool_], end: NDArray[np.bool_], spacing: Sequence[float]) -> NDArray[np.float64]:
    """Millimetres from each voxel of one surface to the nearest of another, in no order."""
    away = np.argwhere(start & ~end) * np.asarray(spacing, np.float64)
    common = int(np.count_nonzero(start & end))
    if not len(away):
        return np.zeros(common)
    # A tree over surface voxels alone takes a tenth of the time of a distance transform of the whole box; on points of a grid it
    # need not be balanced, which is quicker again.
    tree = KDTree(np.argwhere(end) * np.asarray(spacing, np.float64), balanced_tree=False, compact_nodes=False)
    return np.concatenate([tree.query(away)[0], np.zeros(common)])
