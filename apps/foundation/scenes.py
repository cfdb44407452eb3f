"""Scenes of any size as images of a sensor, read window by window."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from ...datasets import Grid, open_scene
from ...datasets.collections.layer import Layer, ground_pitch
from ...datasets.collections.rasters import open_layer
from ...datasets.sensors import Band, Radiometry, Sensor, SensorImage, sensor

logger = logging.getLogger(__name__)

UNNAMED = "unnamed"


class Pixels(Protocol):
    """What can be read window by window: a file, or an image in memory."""

    @property
    def where(self) -> str:
        """Its name, for messages."""
        ...

    @property
    def sensor(self) -> str:
        """Its name."""
        ...

    @property
    def bands(self) -> tuple[Band, ...]:
        """What ``read`` delivers."""
        ...

    @property
    def gsd(self) -> float:
        """Metres on the ground from a pixel to the next."""
        ...

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        ...

    def read(self, row: int, column: int, height: int, width: int) -> NDArray[np.float32]:
        """Values (bands, height, width) in physical units; NaN where there is no data, and beyond the lower and right edges."""
        ...


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """An image in memory."""

    image: SensorImage

    @property
    def where(self) -> str:
        return self.image.name

    @property
    def sensor(self) -> str:
        return self.image.sensor

    @property
    def bands(self) -> tuple[Band, ...]:
        return self.image.bands

    @property
    def gsd(self) -> float:
        return self.image.gsd

    @property
    def shape(self) -> tuple[int, int]:
        return self.image.values.shape[1], self.image.values.shape[2]

    def read(self, row: int, column: int, height: int, width: int) -> NDArray[np.float32]:
        part = self.image.values[:, row : row + height, column : column + width]
        beyond = (0, 0), (0, height - part.shape[1]), (0, width - part.shape[2])
        return np.pad(part, beyond, constant_values=np.nan)


@dataclass(frozen=True, eq=False)
class SensorScene:
    """A scene on disk whose bands are known, and what its numbers mean.

    Args:
        layer: the file.
        radiometry: numbers to physical units, the same for all windows.
        gsd: metres on the ground from a pixel to the next.
    """

    layer: Layer
    radiometry: Radiometry
    gsd: float

    @property
    def where(self) -> str:
        return self.layer.where

    @property
    def sensor(self) -> str:
        return self.layer.sensor.name

    @property
    def bands(self) -> tuple[Band, ...]:
        return self.layer.bands

    @property
    def shape(self) -> tuple[int, int]:
        return self.layer.grid.shape

    @property
    def grid(self) -> Grid:
        """Where the pixels lie."""
        return self.layer.grid

    def read(self, row: int, column: int, height: int, width: int) -> NDArray[np.float32]:
        bottom, right = min(row + height, self.grid.height), min(column + width, self.grid.width)
        window = Window(column, row, right - column, bottom - row)
        values = np.full((len(self.bands), height, width), np.nan, dtype=np.float32)
        values[:, : bottom - row, : right - column] = self.layer.values(self.radiometry, range(len(self.bands)), window)
        return values


def open_sensor_scene(path: str | Path, name: str | None = None, *, gsd: float | None = None) -> SensorScene:
    """Open a scene of a sensor.

    Args:
        path: a raster.
        name: of the sensor, whose table tells the bands and what numbers mean. Without it the file must tell the wavelengths,
            and its numbers must be reflectance: as a fraction, in percent, or times 10000.
        gsd: metres on the ground from a pixel to the next. Default: the file's, else the sensor's.

    Raises:
        FileNotFoundError: no such file.
        ValueError: bands that are not the sensor's, bands without wavelengths, numbers that the sensor cannot have measured, or
            a file that does not tell the size of its pixels.
    """
    check_gsd(gsd)
    layer = open_layer(path, _of_file(path, gsd) if name is None else sensor(name))
    warn_of_gsd(layer, gsd)
    radiometry = layer.decide()
    known = "known by their wavelengths" if name is None else f"of {layer.sensor.name}"
    logger.info("%s: %d bands %s; %s", path, len(layer.bands), known, radiometry.reason)
    return SensorScene(layer, radiometry, gsd or layer.gsd)


def check_gsd(gsd: float | None) -> None:
    """Raise a ValueError if it is no length."""
    if gsd is not None and not gsd > 0:
        raise ValueError(f"gsd is {gsd:g}, expected metres above 0")


def warn_of_gsd(layer: Layer, gsd: float | None) -> None:
    """Warn if the grid tells another one."""
    pitch = ground_pitch(layer.grid)
    if gsd is not None and pitch is not None and not 0.9 < gsd / pitch < 1.1:
        logger.warning("%s: its grid has pixels of %.3g m, taken as %.3g m as asked for", layer.where, pitch, gsd)


def _of_file(path: str | Path, gsd: float | None) -> Sensor:
    scene = open_scene(path)
    return sensor_of_wavelengths(str(path), scene.wavelengths is not None, scene.grid, gsd)


def sensor_of_wavelengths(where: str, told: bool, grid: Grid, gsd: float | None) -> Sensor:
    """Return what stands in for the table of a sensor that is not named.

    Args:
        where: its name, for messages.
        told: whether there are wavelengths.
        grid: of the scene.
        gsd: as of ``open_sensor_scene``.

    Raises:
        ValueError: there are no wavelengths, or nothing tells the size of pixels.
    """
    if not told:
        raise ValueError(f"{where}: its bands have no wavelengths: name the sensor, such as sentinel-2-l2a")
    pitch = gsd or ground_pitch(grid)
    if pitch is None:
        raise ValueError(f"{where}: no coordinate reference system tells the size of its pixels: name the sensor or give the gsd")
    return replace(sensor("enmap"), name=UNNAMED, gsd=pitch, aliases=(), channels=None)
