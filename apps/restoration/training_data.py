"""Which images a restoration network is fitted to and validated on, and how they are fed to it."""

from dataclasses import dataclass
from typing import Any

import lightning as L
from torch.utils.data import DataLoader

from ...datasets.pairs import Pair, read_pairs
from .crops import Crops
from .degradation import Degradation
from .network import Network


@dataclass(frozen=True, kw_only=True)
class ImagesConfig:
    """Which images a network is fitted to and validated on. They are kept in memory.

    Args:
        targets: what is to come out: a folder, or a pattern such as ``pairs/*_sharp.png``.
        validation_targets: the same of images that are never trained on.
        sources: what goes in, by the same names (``x2`` may follow); without it sources are made by the degradation.
        validation_sources: the same for the validation.
        crop: pixels of a source crop on each side.
        batch: crops in a step, on each device.
        choices: crops that are drawn for each that is used: the one with the strongest detail.
        workers: processes that cut crops; 0 cuts in the main process.
    """

    targets: str
    validation_targets: str
    sources: str | None = None
    validation_sources: str | None = None
    crop: int = 64
    batch: int = 16
    choices: int = 1
    workers: int = 0

    def __post_init__(self) -> None:
        """Refuse sizes that hold nothing."""
        if min(self.crop, self.batch, self.choices) < 1 or self.workers < 0:
            raise ValueError(
                f"crop {self.crop}, batch {self.batch}, choices {self.choices}, workers {self.workers}: "
                "allowed are numbers from 1 on, and workers from 0 on"
            )


class TrainingData(L.LightningDataModule):
    """Crops of the training images, others in every epoch, and whole validation images on every device.

    An epoch is what lies between two validations: ``check_every`` steps.
    """

    def __init__(
        self, images: ImagesConfig, network: Network, degradation: Degradation, *, steps: int, check_every: int, seed: int
    ) -> None:
        super().__init__()
        self.images, self.degradation, self.scale = images, degradation, network.scale
        self.steps, self.check_every, self.seed = steps, check_every, seed
        if network.in_channels != network.out_channels:
            raise ValueError(
                f"{type(network).__name__} turns {network.in_channels} channels into {network.out_channels}: expected as many"
            )
        if images.sources and degradation.random:
            raise ValueError(
                f"both sources ({images.sources}) and a random degradation were given: sources are taken as they are"
            )
        channels = network.in_channels
        self.pairs = read_pairs(
            images.targets, images.sources, scale=self.scale, channels=channels,
            degrade=None if images.sources else degradation.whole(self.scale),
        )  # fmt: skip
        self.validation = read_pairs(
            images.validation_targets, images.validation_sources, scale=self.scale, channels=channels,
            degrade=None if images.validation_sources else degradation.for_validation(self.scale, seed),
        )  # fmt: skip
        self._crops(0)  # refuses images that are too small before anything else is done

    def _crops(self, epoch: int) -> Crops:
        rank = self.trainer.global_rank if self.trainer else 0
        steps = min(self.check_every, self.steps - epoch * self.check_every)
        return Crops(
            self.pairs, scale=self.scale, size=self.images.crop, length=self.images.batch * max(steps, 1),
            seed=(self.seed, rank), epoch=epoch, choices=self.images.choices, margin=self.degradation.margin,
        )  # fmt: skip

    def train_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        workers = self.images.workers
        return DataLoader(self._crops(self.trainer.current_epoch), batch_size=self.images.batch, num_workers=workers)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.validation, batch_size=None, collate_fn=_arrays)  # type: ignore[arg-type]


def _arrays(pair: Pair) -> tuple[Any, Any]:
    return pair.source, pair.target
