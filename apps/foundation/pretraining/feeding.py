"""How a pretraining is fed: crops of places, others in every pass, each pass of one combination of sensors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

import lightning as L
import numpy as np
from torch.utils.data import DataLoader, Dataset

from ....core.sensors.batch import SensorBatch
from ....core.sensors.normalization import Normalization
from ....datasets.collections import Collection, OnError
from ..images import collate
from .augmentation import AugmentationConfig, augmented
from .crops import Crops
from .task import Pass

_ENDLESS = 2**60  # crops: which of them are drawn, passes tell
_FIXED = 2**31  # seed of the validation
_MEASURED = 200  # places whose values are measured at most


@dataclass(frozen=True, kw_only=True)
class CropsConfig:
    """How training sees the places.

    Args:
        size: pixels on a side of a crop, of the sensor with the finest pixels; the others' are of the same ground.
        batch: crops in a pass through the network, on each device.
        accumulate: passes in a step.
        together: sensors of a place in a pass, at most; 1 shows sensors one at a time.
        order: whether combinations of sensors take turns or are drawn.
        valid: share of the pixels that must have data, in each of the sensors.
        checked: crops of each combination that validate, in passes of ``batch``.
        on_error: whether a file that cannot be read in the middle of a training ends it, or its place is left out from then on.
        workers: processes that cut crops; 0 cuts in the main process.
    """

    size: int = 64
    batch: int = 16
    accumulate: int = 1
    together: int = 2
    order: Literal["turns", "random"] = "turns"
    valid: float = 0.5
    checked: int = 32
    on_error: OnError = "raise"
    workers: int = 0

    def __post_init__(self) -> None:
        """Refuse sizes that hold nothing."""
        if min(self.size, self.batch, self.accumulate, self.together, self.checked) < 1 or self.workers < 0:
            raise ValueError(
                f"size {self.size}, batch {self.batch}, accumulate {self.accumulate}, together {self.together}, checked "
                f"{self.checked}, workers {self.workers}: allowed are numbers from 1 on, and workers from 0 on"
            )
        if not 0 < self.valid <= 1:
            raise ValueError(f"valid is {self.valid}: allowed is a share above 0, 1 at most")


def _crops(collection: Collection, group: tuple[str, ...], config: CropsConfig, *, patch: int, seed: int, turn: bool) -> Crops:
    """Draw crops that an encoder can take.

    Raises:
        ValueError: if sizes do not fit.
    """
    for place in collection.with_sensors(group):
        first, *others = (collection.sizes[place][name] for name in group)
        for name, shape in zip(group, (first, *others), strict=True):
            side = config.size * shape[0] / first[0]
            if side % patch:
                raise ValueError(
                    f"crops of {config.size} pixels of {group[0]} are {side:g} of {name} in {place}: the encoder wants multiples "
                    f"of its patch, {patch}"
                )
    return Crops(
        collection, sensors=group, size=config.size, per_epoch=_ENDLESS, seed=seed, valid=config.valid, flips=turn,
        on_error=config.on_error,
    )  # fmt: skip


def _groups(collection: Collection, together: int) -> tuple[tuple[str, ...], ...]:
    """Return the combinations of sensors that some place has, as many at once as may be, finest pixels first."""
    found: dict[tuple[str, ...], None] = {}
    for place, sizes in collection.sizes.items():
        gsd = {name: collection.gsd(place, name) for name in collection.sensors if name in sizes}
        ordered = sorted(gsd, key=lambda name: gsd[name])
        found |= dict.fromkeys(combinations(ordered, min(together, len(ordered))))
    return tuple(found)


class Feeding(L.LightningDataModule):
    """Passes of training crops, and of validation crops that are the same each time, on every device.

    An epoch is what lies between two validations: ``check_every`` steps. What is drawn follows from the seed, the number of the
    pass and that of the crop in it: a step of as many crops is the same on one device and on several.

    Args:
        train, validation: places; the latter may be none.
        normalization: of physical values.
        patch: of the encoder.
        config, augmentation: of crops.
        steps, check_every: of the training.
        seed: of what is drawn.
    """

    def __init__(
        self,
        train: Collection,
        validation: Collection | None,
        normalization: Normalization,
        *,
        patch: int,
        config: CropsConfig,
        augmentation: AugmentationConfig,
        steps: int,
        check_every: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.config, self.steps, self.check_every = config, steps, check_every
        self._train = _Draw(train, normalization, config, augmentation, patch=patch, seed=seed)
        self._validation = None
        if validation is not None:
            still = AugmentationConfig(turn=False)
            self._validation = _Draw(validation, normalization, replace(config, order="turns"), still, patch=patch, seed=_FIXED)

    def train_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        epoch, accumulate = self.trainer.current_epoch, self.config.accumulate
        first = epoch * self.check_every
        steps = max(min(self.check_every, self.steps - first), 1)
        numbers = range(first * accumulate, (first + steps) * accumulate)
        passes = _Passes(self._train, numbers, self.trainer.global_rank, self.trainer.world_size)
        return DataLoader(passes, batch_size=None, num_workers=self.config.workers)

    def val_dataloader(self) -> DataLoader[Any]:
        if self._validation is None:
            return DataLoader(_Nothing(), batch_size=None)
        groups = len(self._validation.groups)
        count = groups * max(self.config.checked // self.config.batch, 1)
        return DataLoader(_Passes(self._validation, range(count), 0, 1), batch_size=None)


class _Draw:
    """Makes the passes of a training or of a validation."""

    def __init__(
        self,
        collection: Collection,
        normalization: Normalization,
        config: CropsConfig,
        augmentation: AugmentationConfig,
        *,
        patch: int,
        seed: int,
    ) -> None:
        self.groups = _groups(collection, config.together)
        self._crops = [_crops(collection, group, config, patch=patch, seed=seed, turn=augmentation.turn) for group in self.groups]
        self._normalization, self._config, self._augmentation, self._seed = normalization, config, augmentation, seed

    def __call__(self, number: int, rank: int, devices: int) -> Pass:
        """Return a device's part of a pass, whose number is counted over the training."""
        common = np.random.default_rng((self._seed, number))
        counted, turn = divmod(number, len(self.groups))
        if self._config.order == "random":
            counted, turn = number, int(common.integers(len(self.groups)))
        batch = self._config.batch
        first = (counted * devices + rank) * batch
        crops = range(first, first + batch)
        images = [self._crops[turn][crop] for crop in crops]
        streams = tuple(self._normalization(collate([image[name] for image in images])) for name in self.groups[turn])
        each = [np.random.default_rng((self._seed, number, crop)) for crop in crops]
        return Pass(augmented(streams, self._augmentation, common, each), number, tuple(crops))


class _Passes(Dataset[Pass]):
    def __init__(self, draw: _Draw, numbers: range, rank: int, devices: int) -> None:
        self._draw, self._numbers, self._rank, self._devices = draw, numbers, rank, devices

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Pass:
        if index >= len(self):
            raise IndexError(index)
        return self._draw(self._numbers[index], self._rank, self._devices)


class _Nothing(Dataset[dict[str, Any]]):
    """One batch of nothing, so that there is a moment to save weights."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {}


def measured(collection: Collection, on_error: OnError) -> Iterator[SensorBatch]:
    """Yield the images of a collection for a normalisation, of at most 200 places, evenly chosen.

    Args:
        collection: of places.
        on_error: whether a file that cannot be read ends it, or its place is passed over: training will say so.
    """
    places: Sequence[str] = collection.places
    for at in np.unique(np.linspace(0, len(places) - 1, min(len(places), _MEASURED)).astype(int)).tolist():
        try:
            images = collection.read(places[at])
        except (ValueError, OSError):
            if on_error == "raise":
                raise
            continue
        for image in images.values():
            yield collate([image])
