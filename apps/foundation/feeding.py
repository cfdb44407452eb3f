"""How a pretraining is fed: crops of places, others in every pass, each pass of one combination of sensors."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import lightning as L
import numpy as np
from rasterio.windows import Window
from torch.utils.data import DataLoader, Dataset

from ...core.sensors.batch import SensorBatch
from ...core.sensors.normalization import Normalization
from ...datasets.collections import Collection
from ...datasets.sensors import SensorImage
from .augmentation import AugmentationConfig, augmented
from .images import collate
from .task import Pass

logger = logging.getLogger(__name__)

_TRIES = 50  # for a crop with enough data; then a place, or all of them, has none
_TRAINING, _VALIDATION = 0, 1  # set draws apart
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
        checked: crops of each combination that validate.
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
    on_error: Literal["raise", "skip"] = "raise"
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


class Crops:
    """Draws crops of a collection.

    Args:
        collection: of places.
        config: of what is drawn.
        patch: of the encoder; sides are multiples of it.

    Raises:
        ValueError: if no place is large enough, or pixels of two sensors do not go together.
    """

    def __init__(self, collection: Collection, config: CropsConfig, patch: int) -> None:
        self.collection, self.config = collection, config
        self._failed: set[str] = set()
        self.groups = _groups(collection, config.together)
        self.sides = {group: self._sides(group, patch) for group in self.groups}

    def _sides(self, group: tuple[str, ...], patch: int) -> dict[str, int]:
        """Check that crops of all places fit, and return pixels on a side by place, of the group's first sensor."""
        size = self.config.size
        sides, small = {}, []
        for place in self.collection.with_sensors(group):
            shapes = [self.collection.sizes[place][name] for name in group]
            for name, shape in zip(group, shapes, strict=True):
                side = size * shape[0] / shapes[0][0]
                if side % patch:
                    raise ValueError(
                        f"crops of {size} pixels of {group[0]} are {side:g} of {name} in {place}: the encoder wants multiples of "
                        f"its patch, {patch}"
                    )
            if min(shapes[0]) >= size:
                sides[place] = size
            else:
                small.append(f"{place} {shapes[0][0]} x {shapes[0][1]}")
        if not sides:
            raise ValueError(f"no place is as large as a crop of {size} pixels: {', '.join(small[:5])}")
        if small:
            logger.warning("%d places are smaller than a crop of %d pixels and left out: %s", len(small), size, ", ".join(small[:5]))
        return sides

    def draw(self, group: tuple[str, ...], rng: np.random.Generator) -> dict[str, SensorImage]:
        """Draw a crop of a place that all sensors of a group have seen, by sensor.

        Raises:
            ValueError, OSError: a file that cannot be read, unless such places are to be left out; or no crop has enough data.
        """
        places = list(self.sides[group])
        for _ in range(_TRIES):
            place = places[int(rng.integers(len(places)))]
            window = self._window(place, group, rng)
            if place in self._failed:
                continue
            try:
                images = self.collection.read(place, group, window)
            except (ValueError, OSError) as error:
                if self.config.on_error == "raise":
                    raise
                self._failed.add(place)
                logger.warning("%s is left out from here on: %s", place, error)
                continue
            if all(np.isfinite(image.values).mean() >= self.config.valid for image in images.values()):
                return images
        failed = f", of {len(self._failed)} places files cannot be read" if self._failed else ""
        raise ValueError(
            f"{self.collection.source}: none of {_TRIES} crops has data in {self.config.valid:.0%} of {' and '.join(group)}{failed}"
        )

    def _window(self, place: str, group: tuple[str, ...], rng: np.random.Generator) -> Window:
        step, side = self.collection.step(place, group), self.sides[group][place]
        height, width = self.collection.sizes[place][group[0]]
        row, column = (step * int(rng.integers((size - side) // step + 1)) for size in (height, width))
        return Window(column, row, side, side)


def _groups(collection: Collection, together: int) -> tuple[tuple[str, ...], ...]:
    """Return the combinations of sensors that some place has, as many at once as may be, finest pixels first."""
    seen = {
        tuple(name for name in collection.sensors if name in collection.sizes[place]): place for place in reversed(collection.places)
    }
    found: dict[tuple[str, ...], None] = {}
    for sensors, place in reversed(seen.items()):
        ordered = sorted(sensors, key=lambda name: collection.gsd(place, name))  # noqa: B023
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
        draw = _Draw(Crops(train, config, patch), normalization, augmentation, seed=(seed, _TRAINING), batch=config.batch)
        self._train, self._validation = draw, None
        if validation is not None:
            still = AugmentationConfig(turn=False)
            crops = Crops(validation, config, patch)
            self._validation = _Draw(crops, normalization, still, seed=(0, _VALIDATION), batch=config.batch)

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
        groups = len(self._validation.crops.groups)
        count = groups * max(self.config.checked // self.config.batch, 1)
        return DataLoader(_Passes(self._validation, range(count), 0, 1), batch_size=None)


class _Draw:
    """Makes the passes of a training or of a validation."""

    def __init__(
        self, crops: Crops, normalization: Normalization, augmentation: AugmentationConfig, *, seed: tuple[int, int], batch: int
    ) -> None:
        self.crops, self.normalization, self.augmentation = crops, normalization, augmentation
        self.seed, self.batch = seed, batch

    def __call__(self, number: int, rank: int, devices: int) -> Pass:
        """Return a device's part of a pass, whose number is counted over the training."""
        common = np.random.default_rng((*self.seed, number))
        groups = self.crops.groups
        draws = self.crops.config.order == "random" and self.seed[1] == _TRAINING
        group = groups[int(common.integers(len(groups))) if draws else number % len(groups)]
        crops = range(rank * self.batch, (rank + 1) * self.batch)
        each = [np.random.default_rng((*self.seed, number, crop)) for crop in crops]
        images = [self.crops.draw(group, rng) for rng in each]
        streams = tuple(self.normalization(collate([image[name] for image in images])) for name in group)
        return Pass(augmented(streams, self.augmentation, common, each), number, tuple(crops))


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


def measured(collection: Collection) -> Iterator[SensorBatch]:
    """Yield the images of a collection for a normalisation, of at most 200 places, evenly chosen."""
    places: Sequence[str] = collection.places
    for at in np.unique(np.linspace(0, len(places) - 1, min(len(places), _MEASURED)).astype(int)).tolist():
        for image in collection.read(places[at]).values():
            yield collate([image])
