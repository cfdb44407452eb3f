"""Images with labels, for probes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ....datasets import read_labels
from ....datasets.collections import open_collection
from ....datasets.sensors import SensorImage, sensor
from ..scenes import open_sensor_scene

HALF = "half"


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images of places with their labels.

    Args:
        sensor: whose images are probed.
        places: names.
        images: one for each place.
        labels: of each place, (height, width), 0 for none.
        names: of classes, by label.
        others: images of the same places that a probe is asked about though it was not trained on them, by name.
    """

    sensor: str
    places: tuple[str, ...]
    images: tuple[SensorImage, ...]
    labels: tuple[NDArray[np.int64], ...]
    names: Mapping[int, str]
    others: Mapping[str, tuple[SensorImage, ...]]


def read_labelled(
    data: str | Path, *, sensor_name: str | None = None, labels: str | None = None, transfer: Sequence[str] = ()
) -> LabelledImages:
    """Read all of it into memory.

    Args:
        data: a folder, as for ``open_collection``, or a scene.
        sensor_name: of the images. Default: the first there.
        labels: of a scene, as for ``read_labels``.
        transfer: names of other sensors, and ``HALF`` for every second band.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: no labels, or labels in other pixels than the images; a sensor that is not there.
    """
    return (_folder if Path(data).is_dir() else _scene)(str(data), sensor_name, labels, transfer)


def _folder(data: str, name: str | None, labels: str | None, transfer: Sequence[str]) -> LabelledImages:
    if labels is not None:
        raise ValueError(f"{data} is a folder: its labels lie in it, in a folder named LULC or labels")
    wanted = [other for other in transfer if other != HALF]
    collection = open_collection(data, sensors=None if name is None else [name, *wanted])
    main = collection.sensors[0] if name is None else sensor(name).name
    places = collection.with_sensors([main, *wanted])
    found = {place: collection.labels(place) for place in places}
    places = tuple(place for place in places if found[place] is not None)
    if not places:
        raise ValueError(f"{data}: no labels; expected a folder LULC or labels beside those of the sensors")
    images = {place: collection.read(place, [main, *wanted]) for place in places}
    kept = []
    for place in places:
        label, shape = found[place], images[place][main].values.shape[1:]
        assert label is not None
        if label.shape != shape:
            raise ValueError(f"{data}: {place} has labels of {label.shape} pixels for an image of {shape}")
        kept.append(label)
    first = tuple(images[place][main] for place in places)
    others = {sensor(other).name: tuple(images[place][sensor(other).name] for place in places) for other in wanted}
    for other, there in others.items():
        for a, b in zip(first, there, strict=True):
            if a.values.shape[1:] != b.values.shape[1:]:
                raise ValueError(f"{data}: {a.name} in {main} and {other} has pixels of different size, which no probe can share")
    if HALF in transfer:
        others[HALF] = tuple(_half(image) for image in first)
    return LabelledImages(main, places, first, tuple(kept), {}, others)


def _scene(data: str, name: str | None, labels: str | None, transfer: Sequence[str]) -> LabelledImages:
    if labels is None:
        raise ValueError(f"{data} is a scene: give its labels")
    if set(transfer) - {HALF}:
        raise ValueError(f"{data} is a scene of one sensor: transfer can be {HALF} only")
    scene = open_sensor_scene(data, name)
    read = read_labels(labels, scene.grid)
    values = np.array([0, *(info.value for info in read.classes)])[read.index + 1]
    place = Path(data).stem
    image = SensorImage(scene.read(0, 0, *scene.shape), scene.bands, scene.gsd, scene.sensor, place, grid=scene.grid)
    others = {HALF: (_half(image),)} if HALF in transfer else {}
    return LabelledImages(scene.sensor, (place,), (image,), (values,), {info.value: info.name for info in read.classes}, others)


def _half(image: SensorImage) -> SensorImage:
    """Every second band, the first one included."""
    return replace(image, values=image.values[::2], bands=image.bands[::2])
