"""How a training is fed: crops of the training cases, others in every epoch, and whole validation cases."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .augmentation import AugmentationConfig
from .progress import case_bar
from .study import Study
from .training_data import CropSampler, PreparedCases, TrainingCrops


@dataclass(frozen=True, kw_only=True)
class CropsConfig:
    """How training sees the cases. A crop has the size of the plan's ROI.

    Args:
        batch: crops in a pass through the network, on each device.
        accumulate: passes in a step.
        workers: processes that cut crops; 0 cuts in the main process.
        memory: gigabytes (2^30 bytes) of prepared cases that are kept, and as much again for validation; further ones are
            read or prepared whenever they are needed.
        cache: folder for prepared cases, from which they are read then, and by later trainings.
    """

    batch: int = 2
    accumulate: int = 1
    workers: int = 0
    memory: float = 4.0
    cache: Path | None = None

    def __post_init__(self) -> None:
        """Refuse sizes that hold nothing."""
        if min(self.batch, self.accumulate) < 1 or min(self.workers, self.memory) < 0:
            raise ValueError(
                f"batch {self.batch}, accumulate {self.accumulate}, workers {self.workers}, memory {self.memory}: "
                "allowed are whole numbers from 1 on, workers and memory from 0 on"
            )


class Feeding(L.LightningDataModule):
    """Crops of the training cases, each case as often as any other, and whole validation cases on every device.

    An epoch is what lies between two validations: ``check_every`` steps. What is drawn follows from the seed and the epoch alone.

    Raises:
        FileNotFoundError, ValueError: if a case is gone, or has labels that the plan does not know.
    """

    def __init__(
        self,
        study: Study,
        config: CropsConfig,
        augmentation: AugmentationConfig | None = None,
        *,
        steps: int,
        check_every: int,
        seed: int,
        progress: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.steps, self.check_every = config, steps, check_every
        memory = int(config.memory * 2**30)
        train, self._validation = (
            PreparedCases(cases, study.plan, memory=memory, folder=config.cache) for cases in (study.train, study.validation)
        )
        for cases, what in ((train, "prepared"), (self._validation, "prepared for validation")):
            with case_bar(what, progress) as tick:
                cases.fill(tick)
        self._crops = TrainingCrops(train, study.plan, augmentation, seed=seed)

    def train_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        epoch, devices = self.trainer.current_epoch, self.trainer.world_size
        steps = max(min(self.check_every, self.steps - epoch * self.check_every), 1)
        crops = steps * self.config.batch * self.config.accumulate * devices
        sampler = CropSampler(crops, rank=self.trainer.global_rank, devices=devices)
        sampler.set_epoch(epoch)
        indices = list(sampler)  # Lightning would set the epoch, too, and to another number after a training was resumed
        return DataLoader(self._crops, batch_size=self.config.batch, sampler=indices, num_workers=self.config.workers)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(_Volumes(self._validation), batch_size=None)


class _Volumes(Dataset[dict[str, Tensor]]):
    """Whole cases as batches of one; one batch of nothing if there are none, so that there is a moment to save weights."""

    def __init__(self, cases: PreparedCases) -> None:
        self._cases = cases

    def __len__(self) -> int:
        return max(len(self._cases), 1)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not len(self._cases):
            return {}
        case = self._cases[index]
        return {"image": case.voxels[None], "label": case.label[None]}
