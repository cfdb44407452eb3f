"""Random crops of places, the same ground for all sensors."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window
from torch.utils.data import Dataset

from ....datasets.collections import Collection, OnError
from ....datasets.sensors import SensorImage, sensor

logger = logging.getLogger(__name__)

_DRAWS = 8  # windows of a place that are tried before all of it is looked at
_PLACES = 64  # drawn for one crop before it is given up

Crop = dict[str, SensorImage]


class UnusablePlaceError(ValueError):
    """A place cannot be read, or has no window with enough valid pixels."""


class Crops(Dataset[Crop]):
    """Crops of one epoch: the same seed, epoch and index give the same crop, in whatever worker.

    Places are drawn by their area, so that all pixels are equally likely. A window with too few valid values (clouds, no data) is
    passed over for the next of the random sequence.

    Args:
        collection: of places.
        sensors: each crop has an image of all of them.
        size: pixels on a side for the first of the sensors; the others show the same ground in pixels of their own.
        per_epoch: crops in an epoch.
        seed: of the random sequence.
        epoch: which.
        valid: least share of the values that must be valid, for each sensor.
        flips: whether crops are mirrored and turned at random.
        on_error: whether a place that cannot be read, or has no valid crop, ends it, or is passed over, which is logged once.

    Raises:
        ValueError: no place with all of the sensors, a place smaller than a crop, or a size that is not whole for all sensors.
    """

    def __init__(
        self,
        collection: Collection,
        *,
        sensors: Sequence[str],
        size: int,
        per_epoch: int,
        seed: int = 0,
        epoch: int = 0,
        valid: float = 0.5,
        flips: bool = True,
        on_error: OnError = "raise",
    ) -> None:
        self.collection, self.size, self.per_epoch = collection, size, per_epoch
        self.sensors = tuple(sensor(name).name for name in sensors)
        self.seed, self.epoch, self.valid, self.flips, self.on_error = seed, epoch, valid, flips, on_error
        self.places = collection.with_sensors(self.sensors)
        if not self.places:
            raise ValueError(f"{collection.source}: no place is seen by all of {', '.join(self.sensors)}")
        if not 0 <= valid <= 1:
            raise ValueError(f"valid is a share of the pixels, 0..1, got {valid}")
        self._sizes = [collection.sizes[place][self.sensors[0]] for place in self.places]
        self._steps = [collection.step(place, self.sensors) for place in self.places]
        for place, shape, step in zip(self.places, self._sizes, self._steps, strict=True):
            if min(shape) < size:
                raise ValueError(f"{place}: {shape[0]} x {shape[1]} pixels of {self.sensors[0]}, a crop takes {size} x {size}")
            if size % step:
                raise ValueError(f"{place}: crops of {size} pixels are not whole for all sensors, expected a multiple of {step}")
        areas = np.array([height * width for height, width in self._sizes], np.float64)
        self._shares = np.cumsum(areas / areas.sum())
        self.failed: dict[str, str] = {}

    def __len__(self) -> int:
        return self.per_epoch

    def __iter__(self) -> Iterator[Crop]:
        return (self[index] for index in range(self.per_epoch))

    def __getitem__(self, index: int) -> Crop:
        """Draw the crop of an index.

        Raises:
            UnusablePlaceError: a place cannot be read or has no valid crop, and ``on_error`` is "raise"; or none can be used.
        """
        if not 0 <= index < self.per_epoch:
            raise IndexError(index)
        for attempt in range(_PLACES):
            # A sequence of its own for each place that is drawn: what another worker knows of failures changes nothing.
            rng = np.random.default_rng([self.seed, self.epoch, index, attempt])
            number = min(int(np.searchsorted(self._shares, rng.random(), side="right")), len(self.places) - 1)
            place = self.places[number]
            if place in self.failed:
                continue
            try:
                return self._crop(rng, number)
            except (ValueError, OSError) as error:
                if self.on_error == "raise":
                    raise UnusablePlaceError(f"{place}: {error}") from error
                self._fail(place, str(error))
        raise UnusablePlaceError(
            f"{self.collection.source}: no usable place in {_PLACES} draws: {'; '.join(self.failed.values())}"
        )

    def _fail(self, place: str, why: str) -> None:
        self.failed[place] = why
        logger.warning("%s passed over (%d of %d places): %s", place, len(self.failed), len(self.places), why)
        if len(self.failed) == len(self.places):
            raise UnusablePlaceError(f"{self.collection.source}: no place can be used: {'; '.join(self.failed.values())}")

    def _crop(self, rng: np.random.Generator, number: int) -> Crop:
        place, (height, width), step = self.places[number], self._sizes[number], self._steps[number]
        for _ in range(_DRAWS):
            row, column = (step * int(rng.integers((side - self.size) // step + 1)) for side in (height, width))
            images = self.collection.read(place, self.sensors, Window(column, row, self.size, self.size))
            if all(_share(image) >= self.valid for image in images.values()):
                return self._turned(rng, images)
        windows = self._windows(number)
        if not windows:
            names = ", ".join(self.sensors)
            raise ValueError(f"no crop of {self.size} x {self.size} pixels with {self.valid:.0%} of its values valid ({names})")
        row, column = windows[int(rng.integers(len(windows)))]
        return self._turned(rng, self.collection.read(place, self.sensors, Window(column, row, self.size, self.size)))

    def _windows(self, number: int) -> list[tuple[int, int]]:
        """All windows of a place with enough valid values, half a crop apart."""
        place, (height, width), step = self.places[number], self._sizes[number], self._steps[number]
        apart = max(step, self.size // 2 // step * step)
        found = []
        for row in _starts(height, self.size, apart, step):
            for column in _starts(width, self.size, apart, step):
                images = self.collection.read(place, self.sensors, Window(column, row, self.size, self.size))
                if all(_share(image) >= self.valid for image in images.values()):
                    found.append((row, column))
        return found

    def _turned(self, rng: np.random.Generator, images: Crop) -> Crop:
        if not self.flips:
            return images
        turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
        return {name: replace(image, values=_turn(image.values, turns, mirrored), grid=None) for name, image in images.items()}


def _turn(values: NDArray[np.float32], turns: int, mirrored: bool) -> NDArray[np.float32]:
    if mirrored:
        values = values[:, :, ::-1]
    return np.ascontiguousarray(np.rot90(values, turns, axes=(1, 2)))


def _share(image: SensorImage) -> float:
    """Share of the values that are valid."""
    return float(np.isfinite(image.values).mean())


def _starts(side: int, size: int, apart: int, step: int) -> list[int]:
    last = (side - size) // step * step
    return sorted({*range(0, last + 1, apart), last})
