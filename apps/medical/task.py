"""A segmenter in training, for ``geovit fit medical`` and for anybody's Lightning trainer."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor

from ...core.training.optimizer import OptimizerConfig
from .losses import Loss, LossConfig, dice
from .model import Segmenter
from .sliding import Slider


@dataclass(frozen=True, kw_only=True)
class SegmentationOptimizer(OptimizerConfig):
    """AdamW and its schedule, with what suits Swin UNETR on small batches."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    warmup: int = 50
    clip: float = 1.0


class SegmentationTask(L.LightningModule):
    """The loss on crops, and the Dice of whole volumes.

    Batches are mappings as MONAI's transforms make them, other entries are ignored: "image" (batch, channels, *size), normalised,
    and "label", of classes (batch, 1, *size) with 0 for the background and k for the plan's k-th target, of regions
    (batch, regions, *size) of 0 and 1. A validation batch is one whole volume; windows of it go through the network.

    It logs "loss", and after validations "dice", the mean over targets of the mean over volumes, and "dice/NAME" of each target.
    A volume in which a target neither is nor is found does not count for that target.

    Args:
        segmenter: whose network is trained in place, and whose plan says what its outputs mean.
        loss: what is minimised.
        optimizer: how.
        steps: of the training, for the learning rate; a function that tells them of each step; None asks the trainer.
        overlap: share of a window that its neighbour sees too, in validations.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        *,
        loss: LossConfig | None = None,
        optimizer: OptimizerConfig | None = None,
        steps: int | Callable[[int], float] | None = None,
        overlap: float = 0.5,
    ) -> None:
        super().__init__()
        self.network = segmenter.network
        self.segmenter = segmenter
        self.history: list[dict[str, Any]] = []
        self._loss = Loss(loss or LossConfig(), segmenter.plan)
        self._optimizer, self._steps, self._overlap = optimizer or SegmentationOptimizer(), steps, overlap
        self._scores: list[list[float]] = []
        self._losses: list[Tensor] = []
        self._slider: Slider | None = None

    def training_step(self, batch: Mapping[str, Any]) -> Tensor:
        loss = self._loss(self.network(_plain(batch["image"])), _plain(batch["label"]))
        self._losses.append(loss.detach())
        self.log("loss", loss, prog_bar=True, batch_size=len(batch["image"]))
        return loss

    def validation_step(self, batch: Mapping[str, Any]) -> None:
        if not batch:  # where no case validates
            return
        image, label = _plain(batch["image"]), _plain(batch["label"])
        if len(image) != 1:
            raise ValueError(f"a validation batch of {len(image)} volumes: expected one, since their sizes differ")
        masks = self._found(image[0])
        targets = label[0] > 0.5 if self.segmenter.plan.regions else _masks(label[0, 0], range(1, len(masks) + 1))
        self._scores.append([dice(found, truth) for found, truth in zip(masks, targets.to(masks.device), strict=True)])

    def _found(self, voxels: Tensor) -> Tensor:
        """Return the mask of each target (targets, *size) in a volume (channels, *size)."""
        plan = self.segmenter.plan
        if self._slider is None or self._slider.device != self.device:
            self._slider = Slider(network=self.network, plan=plan, device=self.device, overlap=self._overlap)
        if plan.regions:  # a painted map would not tell of regions under others
            return self._slider.logits(voxels) > 0
        return _masks(torch.from_numpy(self._slider.labels(voxels)), [target.output for target in plan.targets])

    def scores(self) -> dict[str, Any]:
        """Return the figures of the validation that is going on: "step", "loss" since the last one, "dice" and "targets".

        Dice is None where nothing of a target is in any volume.
        """
        names = [target.name for target in self.segmenter.plan.targets]
        means = torch.tensor(self._scores, dtype=torch.float64).reshape(-1, len(names)).nanmean(0).tolist()
        known = [mean for mean in means if not math.isnan(mean)]
        return {
            "step": self.global_step,
            "loss": float(torch.stack(self._losses).mean()) if self._losses else None,
            "dice": sum(known) / len(known) if known else None,
            "targets": {name: None if math.isnan(mean) else mean for name, mean in zip(names, means, strict=True)},
        }

    def on_validation_epoch_end(self) -> None:
        row = self.scores()
        self._scores, self._losses = [], []
        self.history.append(row)
        if row["dice"] is not None:
            self.log("dice", row["dice"], prog_bar=True)
            self.log_dict({f"dice/{name}": value for name, value in row["targets"].items() if value is not None})

    def configure_optimizers(self) -> Any:
        steps = int(self.trainer.estimated_stepping_batches) if self._steps is None else self._steps
        optimizer, schedule = self._optimizer.build(self.network.parameters(), steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = list(checkpoint["history"])


def _plain(x: Tensor) -> Tensor:
    """Return a tensor without MONAI's metadata, which costs time at every operation."""
    return x.as_tensor() if hasattr(x, "as_tensor") else x


def _masks(labels: Tensor, values: Sequence[int]) -> Tensor:
    """Return (values, *size) of a label map (*size): where it has each value."""
    return torch.stack([labels == value for value in values])
