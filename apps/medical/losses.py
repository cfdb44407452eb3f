"""What logits are compared with labels by."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from monai.losses import DiceLoss, FocalLoss, GeneralizedDiceLoss, TverskyLoss
from torch import Tensor
from torch.nn import functional as F

from .plan import Plan


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """A loss of overlap and one of each voxel, added.

    Args:
        overlap: MONAI's "dice", "generalised_dice" or "tversky" (false negatives count 0.7, false positives 0.3).
        overlap_weight: of that.
        voxels: "cross_entropy", of single regions where they may overlap, or MONAI's "focal".
        voxel_weight: of that.
        batch: whether the overlap is that of a whole batch, so that a crop without a class says little about it, or the mean
            over crops.
        background: whether the background counts as a class in the overlap.
        label_smoothing: of the cross-entropy of classes.
    """

    overlap: Literal["dice", "generalised_dice", "tversky"] = "dice"
    overlap_weight: float = 1.0
    voxels: Literal["cross_entropy", "focal"] = "cross_entropy"
    voxel_weight: float = 1.0
    batch: bool = True
    background: bool = False
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Refuse negative weights, and none at all."""
        weights = self.overlap_weight, self.voxel_weight
        if min(weights) < 0 or not any(weights):
            raise ValueError(f"the losses' weights are {weights}: allowed are positive numbers and 0, but not all 0")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing}: allowed are 0..1 and below 1")


class Loss:
    """The loss of a plan's classes or regions, with their weights. No module: nothing of it is averaged or saved.

    A crop without foreground is a valid one: what is found in it counts against the network.
    """

    def __init__(self, config: LossConfig, plan: Plan) -> None:
        self.config, self.regions = config, plan.regions
        weights = [target.weight for target in plan.targets]
        self._weights = None if len(set(weights)) < 2 and weights[0] == 1 else weights
        self._overlap = self._overlap_loss()

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss, of no axes; in float32.

        Args:
            logits: (batch, ``plan.outputs``, *size).
            labels: of classes (batch, 1, *size), the number of each voxel's output; of regions (batch, regions, *size), 0 or 1.
        """
        logits, config = logits.float(), self.config
        total = logits.new_zeros(())
        if config.overlap_weight:
            total = total + config.overlap_weight * self._overlap(logits, labels)
        if config.voxel_weight:
            voxels = self._focal if config.voxels == "focal" else self._cross_entropy
            total = total + config.voxel_weight * voxels(logits, labels)
        return total

    def _overlap_loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        c, regions = self.config, self.regions
        common = {
            "include_background": c.background or regions,
            "to_onehot_y": not regions,
            "softmax": not regions,
            "sigmoid": regions,
            "batch": c.batch,
        }
        if c.overlap == "generalised_dice":
            return GeneralizedDiceLoss(**common)  # type: ignore[no-any-return]
        if c.overlap == "tversky":
            return TverskyLoss(**common, alpha=0.3, beta=0.7)  # type: ignore[no-any-return]
        weights = self._of_outputs(background=c.background)
        return DiceLoss(**common, weight=weights)  # type: ignore[no-any-return]

    def _of_outputs(self, *, background: bool = True) -> Sequence[float] | None:
        if self._weights is None or self.regions or not background:
            return self._weights
        return [1.0, *self._weights]

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        weights = self._of_outputs()
        if self.regions:  # MONAI's DiceCELoss takes a softmax over them here, as if they did not overlap
            each = F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none")
            each = each.flatten(2).mean((0, 2))
            return each.mean() if weights is None else (each * each.new_tensor(weights)).sum() / sum(weights)
        smooth = self.config.label_smoothing
        given = None if weights is None else logits.new_tensor(weights)
        return F.cross_entropy(logits, labels[:, 0].long(), weight=given, label_smoothing=smooth)

    def _focal(self, logits: Tensor, labels: Tensor) -> Tensor:
        weights = self._of_outputs()
        loss = FocalLoss(include_background=True, to_onehot_y=not self.regions, use_softmax=not self.regions, weight=weights)
        return loss(logits, labels if not self.regions else labels.float())  # type: ignore[no-any-return]


def dice(found: Tensor, truth: Tensor) -> float:
    """Return the overlap of two masks of one shape, 2 |A and B| / (|A| + |B|); NaN where both are empty."""
    both, sizes = torch.logical_and(found, truth).sum(), found.sum() + truth.sum()
    return float(2 * both / sizes) if sizes else float("nan")
