"""An auto-encoder in training, for ``geovit pretrain`` and for anybody's Lightning trainer."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ....core.sensors.batch import SensorBatch
from ....core.training.optimizer import OptimizerConfig
from ....core.training.runs import seed_of
from .autoencoder import MaskedAutoencoder
from .distillation import Distillation
from .panel import panel


@dataclass(frozen=True, kw_only=True)
class PretrainingOptimizer(OptimizerConfig):
    """AdamW and its schedule, with what suits small auto-encoders; matrices alone decay."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05
    warmup: int = 100
    clip: float = 1.0
    decay_all: bool = False


@dataclass(frozen=True, eq=False)
class Pass:
    """What goes through the network at once.

    Args:
        streams: normalised images, of one sensor, or of several of the same places.
        number: of the pass, the same on all devices.
        crops: numbers of the images, each counted over the whole training; what is drawn for an image follows from its own.
    """

    streams: tuple[SensorBatch, ...]
    number: int
    crops: tuple[int, ...]

    def to(self, device: torch.device) -> "Pass":
        """Return the same on a device."""
        return replace(self, streams=tuple(stream.to(device) for stream in self.streams))


class PretrainingTask(L.LightningModule):
    """The loss of an auto-encoder, and of self-distillation beside it.

    Batches are ``Pass``. It logs "loss" and its parts, and after validations "validation", the mean loss on held-out places whose
    masks are the same each time, and the same for each combination of sensors. ``pictures`` has a ``panel`` for each sensor of
    each combination, of the last validation.

    Args:
        autoencoder: is trained in place.
        distillation: is trained beside it.
        optimizer: how.
        steps: of the training, for the learning rate; a function that tells them of each step; None asks the trainer.
        seed: of masks.
    """

    def __init__(
        self,
        autoencoder: MaskedAutoencoder,
        *,
        distillation: Distillation | None = None,
        optimizer: OptimizerConfig | None = None,
        steps: int | Callable[[int], float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.autoencoder, self.distillation = autoencoder, distillation
        self.history: list[dict[str, Any]] = []
        self.pictures: dict[str, NDArray[np.uint8]] = {}
        self._optimizer, self._steps, self._seed = optimizer or PretrainingOptimizer(), steps, seed
        self._updated = 0
        self._losses: list[dict[str, Tensor]] = []
        self._validation: dict[str, list[Tensor]] = {}
        self._samples = self._tokens = 0
        self._begun = time.monotonic()

    def training_step(self, batch: Pass) -> Tensor:
        generator = self._generators(batch)
        found = self.autoencoder(batch.streams, generator)
        loss: Tensor = found.loss
        parts = dict(found.parts)
        if self.distillation is not None:
            parts["distillation"] = self.distillation(self.autoencoder.encoder, batch.streams, generator)
            config = self.distillation.config
            loss = (0.0 if config.alone else loss) + config.weight * parts["distillation"]
        self._losses.append({"loss": loss.detach(), **{name: part.detach() for name, part in parts.items()}})
        self._samples += len(batch.streams[0].values)
        self._tokens += sum(hidden.numel() for hidden in found.hidden)
        self.log("loss", loss, prog_bar=True, batch_size=len(batch.streams[0].values))
        return loss

    def _generators(self, batch: Pass, *, fixed: bool = False) -> list[torch.Generator]:
        """One for each image: masks are the same however many devices there are, and after a training was resumed."""
        seeds = (seed_of(0, crop, 1) if fixed else seed_of(self._seed, crop) for crop in batch.crops)
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    def on_train_batch_end(self, outputs: Any, batch: Pass, batch_idx: int) -> None:
        if self.distillation is not None and self.global_step > self._updated:
            self._updated = self.global_step
            self.distillation.follow(self.autoencoder.encoder, self.global_step / max(self._expected(self.global_step), 1))

    def _expected(self, step: int) -> float:
        if self._steps is None:
            return float(self.trainer.estimated_stepping_batches)
        return self._steps(step) if callable(self._steps) else self._steps

    def validation_step(self, batch: Pass | Mapping[str, Any], batch_idx: int) -> None:
        if not isinstance(batch, Pass):  # where no place validates
            return
        found = self.autoencoder(batch.streams, self._generators(batch, fixed=True))
        sensors = "+".join(stream.sensor for stream in batch.streams)
        self._validation.setdefault(sensors, []).append(found.loss.detach())
        if len(self._validation[sensors]) > 1:
            return
        writer: Any = getattr(self.logger, "experiment", None)
        # There are no images where an auto-encoder reconstructs none.
        for stream, image, hidden in zip(found.inputs, found.images, found.hidden, strict=bool(found.images)):
            name = f"{sensors}/{stream.sensor}"
            self.pictures[name] = panel(stream, image, hidden)
            if hasattr(writer, "add_image"):
                writer.add_image(name, self.pictures[name], self.global_step, dataformats="HWC")

    def row(self) -> dict[str, Any]:
        """Return the figures since the last validation, and of the one that is going on; see ``Pretraining``."""
        seconds = max(time.monotonic() - self._begun, 1e-9)
        sensors = {name: float(torch.stack(losses).mean()) for name, losses in self._validation.items()}
        row: dict[str, Any] = {"step": self.global_step, "loss": None, "parts": {}}
        if self._losses:
            means = {}
            for name in sorted({name for losses in self._losses for name in losses}):
                means[name] = torch.stack([losses[name] for losses in self._losses if name in losses]).float().mean()
            parts = {name: float(self.trainer.strategy.reduce(mean, reduce_op="mean")) for name, mean in means.items()}
            row |= {"loss": parts.pop("loss"), "parts": parts}
        return {
            **row,
            "validation": sum(sensors.values()) / len(sensors) if sensors else None,
            "sensors": sensors,
            "samples_per_second": round(self._samples * self.trainer.world_size / seconds, 2),
            "tokens_per_second": round(self._tokens * self.trainer.world_size / seconds, 1),
        }

    def on_validation_epoch_end(self) -> None:
        row = self.row()
        for name in ("loss", "validation"):
            if row[name] is not None and not math.isfinite(row[name]):
                raise ValueError(
                    f"{name} is {row[name]} at step {row['step']}: lower the learning rate, clip, or use precision 32"
                )
        self.history.append(row)
        self._losses, self._validation = [], {}
        figures = {f"parts/{name}": value for name, value in row["parts"].items()}
        figures |= {f"validation/{name}": value for name, value in row["sensors"].items()}
        figures |= {
            name: row[name] for name in ("validation", "samples_per_second", "tokens_per_second") if row[name] is not None
        }
        self.log_dict(figures, batch_size=1, rank_zero_only=True)

    def on_validation_end(self) -> None:
        self._samples = self._tokens = 0
        self._begun = time.monotonic()

    def on_train_start(self) -> None:
        self._begun = time.monotonic()

    def configure_optimizers(self) -> Any:
        steps = int(self.trainer.estimated_stepping_batches) if self._steps is None else self._steps
        optimizer, schedule = self._optimizer.build(self, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"], checkpoint["updated"] = self.history, self._updated

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history, self._updated = list(checkpoint["history"]), int(checkpoint["updated"])


class ShardedPretrainingTask(PretrainingTask):
    """The same with the weights split over the devices, block by block, for Lightning's ``ModelParallelStrategy``."""

    def configure_model(self) -> None:
        """Split each block, then what is left; called again by a trainer, it does nothing."""
        from torch.distributed.fsdp import FSDPModule, fully_shard

        if isinstance(self.autoencoder, FSDPModule):
            return
        mesh = self.device_mesh["data_parallel"]  # type: ignore[index]
        for blocks in (part for part in self.autoencoder.modules() if isinstance(part, nn.ModuleList)):
            for block in blocks:
                fully_shard(block, mesh=mesh)
        fully_shard(self.autoencoder, mesh=mesh)
