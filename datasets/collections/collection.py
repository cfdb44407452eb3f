"""Places, each seen by one sensor or by several at once."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from time import monotonic
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from ..sensors import Band, Radiometry, SensorImage, sensor
from .layer import Layer
from .place import Place
from .rasters import named_bands

logger = logging.getLogger(__name__)

OnError = Literal["raise", "skip"]
_DRIFT_NM = 2.0  # by which centres of a band may differ between images of a spectrometer
_TELL_SECONDS = 15.0  # between two messages of how far a check is
_READING = (ValueError, OSError)  # what a file that cannot be read raises


@dataclass(eq=False)
class Collection:
    """Images of places, read from disk as they are asked for. Files are opened for each call: safe in workers.

    Args:
        source: where it is from, for messages.
        members: by name of the place.
        keep_mib: pixels are kept in memory if all of them take no more than this.
    """

    source: str
    members: Mapping[str, Place]
    keep_mib: int = 256
    _radiometry: dict[tuple[str, str], Radiometry] = field(default_factory=dict, repr=False)
    _kept: dict[tuple[str, str], NDArray[np.float32]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.members:
            raise FileNotFoundError(f"{self.source}: no places")
        for name, place in self.members.items():
            place.check(name)
        self._bands = {name: self._common(name) for name in self.sensors}
        layers = [layer for place in self.members.values() for layer in place.layers.values()]
        size = sum(4 * len(layer.bands) * layer.grid.height * layer.grid.width for layer in layers)
        self._keeps = size <= self.keep_mib * 2**20

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": {}}  # another process reads for itself

    def __len__(self) -> int:
        return len(self.members)

    @property
    def places(self) -> tuple[str, ...]:
        """Names of the places, in order."""
        return tuple(self.members)

    @property
    def sensors(self) -> tuple[str, ...]:
        """Names of the sensors, in the order of their first place."""
        return tuple(dict.fromkeys(name for place in self.members.values() for name in place.layers))

    @property
    def sizes(self) -> dict[str, dict[str, tuple[int, int]]]:
        """(height, width) by place and sensor."""
        return {name: {key: layer.grid.shape for key, layer in place.layers.items()} for name, place in self.members.items()}

    def bands(self, name: str) -> tuple[Band, ...]:
        """Return the bands of a sensor that all of its images have."""
        return self._bands[self._sensor(name)]

    def gsd(self, place: str, name: str) -> float:
        """Return metres on the ground from a pixel to the next."""
        return self._layer(place, name).gsd

    def with_sensors(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the places that all of the sensors have seen."""
        wanted = {self._sensor(name) for name in names}
        return tuple(name for name, place in self.members.items() if wanted <= place.layers.keys())

    def subset(self, places: Sequence[str]) -> "Collection":
        """Return a collection of some places, which shares what is known of radiometry and what is kept in memory.

        Raises:
            ValueError: there is no such place.
        """
        members = {place: self._place(place) for place in places}
        return Collection(self.source, members, self.keep_mib, self._radiometry, self._kept)

    def radiometry(self, place: str, name: str) -> Radiometry:
        """Return what the numbers of a file mean, decided when first asked for, once for each file.

        Raises:
            ValueError: they are not what the sensor measures.
        """
        layer = self._layer(place, name)
        if layer.key not in self._radiometry:
            found = layer.decide()
            self._radiometry[layer.key] = found
            if found.corrected:
                logger.info("%s (%s): %s", layer.where, layer.sensor.name, found.reason)
        return self._radiometry[layer.key]

    def check(self, *, on_error: OnError = "raise") -> "Collection":
        """Decide the radiometry of all files now, and return the collection, without the places that cannot be read.

        Args:
            on_error: whether a file that cannot be read, or whose numbers are not its sensor's,
                ends it, or is left out with its place.

        Raises:
            ValueError: a file as above, or no place is left.
        """
        failed: dict[str, str] = {}
        told = monotonic()
        for number, (place, member) in enumerate(self.members.items(), start=1):
            try:
                for name in member.layers:
                    self.radiometry(place, name)
            except _READING as error:
                if on_error == "raise":
                    raise
                failed[place] = str(error)
            if monotonic() - told > _TELL_SECONDS:
                told = monotonic()
                logger.info("%s: %d of %d places checked", self.source, number, len(self))
        if not failed:
            return self
        if len(failed) == len(self):
            raise ValueError(f"{self.source}: no place can be used: {next(iter(failed.values()))}")
        logger.warning("%s: %d of %d places left out: %s", self.source, len(failed), len(self), "; ".join(failed.values()))
        return self.subset([place for place in self.members if place not in failed])

    def read(
        self,
        place: str,
        sensors: Sequence[str] | None = None,
        window: Window | None = None,
        *,
        bands: Mapping[str, Sequence[str]] | None = None,
    ) -> dict[str, SensorImage]:
        """Read images of a place.

        Args:
            place: its name.
            sensors: which, in the order of the result; by default all of the place.
            window: in whole pixels of the first of the sensors; of the others the same ground is read.
            bands: for a sensor, names of bands and their order; else all that its images have in common.

        Raises:
            ValueError: no such place, sensor or band; a window outside, or not of whole pixels for all; a damaged file.
        """
        layers = [self._layer(place, name) for name in sensors] if sensors else list(self._place(place).layers.values())
        chosen = {self._sensor(name): names for name, names in (bands or {}).items()}
        images = {}
        for layer in layers:
            name = layer.sensor.name
            own = None if window is None else _window_of(layer, layers[0], window)
            picked = self._picked(layer, chosen.get(name))
            images[name] = SensorImage(
                values=self._values(place, layer, picked, own),
                bands=tuple(layer.bands[i] for i in picked),
                gsd=layer.gsd,
                sensor=name,
                name=place,
                grid=layer.grid if own is None else layer.grid.part(*(int(v) for v in own.flatten())),
            )
        return images

    def labels(self, place: str, window: Window | None = None) -> NDArray[np.int64] | None:
        """Return classes (height, width) of a place, 0 for none; None if it has no labels.

        Args:
            place: its name.
            window: in pixels of the labels.
        """
        label = self._place(place).label
        return None if label is None else label.read(window)

    def step(self, place: str, sensors: Sequence[str]) -> int:
        """Return the smallest number of pixels of the first sensor that are whole numbers of pixels of all of them."""
        layers = [self._layer(place, name) for name in sensors]
        steps = [Fraction(layers[0].grid.height, layer.grid.height).limit_denominator(1000).numerator for layer in layers]
        return int(np.lcm.reduce(steps))

    def _values(self, place: str, layer: Layer, bands: Sequence[int], window: Window | None) -> NDArray[np.float32]:
        radiometry = self.radiometry(place, layer.sensor.name)
        if not self._keeps:
            return layer.values(radiometry, bands, window)
        key = place, layer.sensor.name
        if key not in self._kept:
            self._kept[key] = layer.values(radiometry, range(len(layer.bands)), None)
        values = self._kept[key][list(bands)]
        if window is None:
            return values
        (top, bottom), (left, right) = ((int(a), int(b)) for a, b in window.toranges())
        return np.ascontiguousarray(values[:, top:bottom, left:right])

    def _picked(self, layer: Layer, names: Sequence[str] | None) -> list[int]:
        """Positions of bands in a layer."""
        if names is None:
            wanted = [band.name for band in self._bands[layer.sensor.name]]
        elif layer.sensor.bands:
            wanted = [band.name for band in named_bands(layer.where, layer.sensor, names)]
        else:
            wanted = list(names)
        held = [band.name for band in layer.bands]
        if lacking := [name for name in wanted if name not in held]:
            raise ValueError(f"{layer.where}: no band {', '.join(lacking)}, it has {', '.join(held)}")
        return [held.index(name) for name in wanted]

    def _common(self, name: str) -> tuple[Band, ...]:
        layers = [place.layers[name] for place in self.members.values() if name in place.layers]
        shared = set.intersection(*({band.name for band in layer.bands} for layer in layers))
        if not shared:
            raise ValueError(f"{self.source}: images of {name} have no band in common")
        for layer in layers[1:]:
            if apart := _apart(layers[0], layer):
                raise ValueError(f"{layer.where}: {apart}, in {layers[0].where} elsewhere; images of {name} have the same bands")
        if (most := max(len(layer.bands) for layer in layers)) > len(shared):
            logger.info("%s: %d of %d bands of %s are in all of its images", self.source, len(shared), most, name)
        return tuple(band for band in layers[0].bands if band.name in shared)

    def _place(self, place: str) -> Place:
        if place not in self.members:
            some = ", ".join(self.places[:8]) + (", ..." if len(self) > 8 else "")
            raise ValueError(f"{self.source} has no place {place!r}, it has {some}")
        return self.members[place]

    def _sensor(self, name: str) -> str:
        found = sensor(name).name
        if found not in self.sensors:
            raise ValueError(f"{self.source} has no images of {found}, it has {', '.join(self.sensors)}")
        return found

    def _layer(self, place: str, name: str) -> Layer:
        found = sensor(name).name
        layers = self._place(place).layers
        if found not in layers:
            raise ValueError(f"{self.source}: {place} has no image of {found}, it has {', '.join(layers)}")
        return layers[found]


def _apart(first: Layer, second: Layer) -> str | None:
    """Tell of a band whose wavelength is another in both; imaging spectrometers drift, by less."""
    centres = {band.name: band.wavelength for band in first.bands}
    for band in second.bands:
        known = centres.get(band.name)
        if known is not None and band.wavelength is not None and abs(known - band.wavelength) > _DRIFT_NM:
            return f"band {band.name} is at {band.wavelength:g} nm"
    return None


def _window_of(layer: Layer, first: Layer, window: Window) -> Window:
    """The pixels of a layer on the ground of a window of the first."""
    down, across = layer.grid.height / first.grid.height, layer.grid.width / first.grid.width
    exact = [window.col_off * across, window.row_off * down, window.width * across, window.height * down]
    whole = [round(v) for v in exact]
    column, row, width, height = whole
    inside = column >= 0 and row >= 0 and column + width <= layer.grid.width and row + height <= layer.grid.height
    if not (inside and width > 0 and height > 0 and max(abs(a - b) for a, b in zip(exact, whole, strict=True)) < 1e-3):
        raise ValueError(
            f"{layer.where}: {window} is not of whole pixels within its {layer.grid.height} x {layer.grid.width} "
            f"({layer.gsd:g} m, beside {first.gsd:g} m of {first.sensor.name})"
        )
    return Window(*whole)
