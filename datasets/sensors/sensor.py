"""What a sensor is."""

from dataclasses import dataclass
from typing import Literal

Unit = Literal["reflectance", "dB", "kelvin"]


@dataclass(frozen=True)
class Band:
    """A band of a sensor.

    Args:
        name: as the sensor's makers write it, such as "B8A" or "VV".
        wavelength: centre in nm; None for radar.
        polarization: of radar, "VV", "VH", "HH" or "HV"; None for optical bands.
        gsd: metres on the ground from a pixel to the next, where it is not the sensor's.
    """

    name: str
    wavelength: float | None = None
    polarization: str | None = None
    gsd: float | None = None


@dataclass(frozen=True)
class Sensor:
    """A sensor, or one product of it.

    Args:
        name: such as "sentinel-2-l2a".
        bands: in the order of its files.
        gsd: metres on the ground from a pixel to the next.
        unit: of the values after ``scale`` and ``offset``: value = number * scale + offset.
        scale, offset: as above, of the numbers in files.
        expected: values outside of which hardly any pixel lies: what a file's radiometry is compared with.
    """

    name: str
    bands: tuple[Band, ...]
    gsd: float
    unit: Unit
    scale: float
    offset: float
    expected: tuple[float, float]
