"""What a sensor is."""

import re
from dataclasses import dataclass
from typing import Literal

Unit = Literal["reflectance", "dB", "kelvin", "relative"]  # relative: numbers of a camera that is not calibrated, of its peak


@dataclass(frozen=True)
class Band:
    """A band of a sensor.

    Args:
        name: as the sensor's makers write it, such as "B8A" or "VV".
        wavelength: centre in nm; None for radar.
        polarization: of radar, "VV", "VH", "HH" or "HV"; None for optical bands.
        gsd: metres on the ground from a pixel to the next, where it is not the sensor's.
        common: other names that files use for it, such as "nir"; in STAC, ``eo:common_name``.
    """

    name: str
    wavelength: float | None = None
    polarization: str | None = None
    gsd: float | None = None
    common: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sensor:
    """A sensor, or one product of it.

    Args:
        name: such as "sentinel-2-l2a".
        bands: in the order of its files; none where each file tells its own, as those of imaging spectrometers do.
        gsd: metres on the ground from a pixel to the next.
        unit: of the values after ``scale`` and ``offset``: value = number * scale + offset.
        scale, offset: as above, of the numbers in files.
        expected: values outside of which hardly any pixel lies: what a file's radiometry is compared with.
        nodata: the number for no data in files that do not tell; 0 only in those of whole numbers.
        others: bands that files have instead, found by their names only.
        aliases: other names; case and punctuation do not count.
        channels: how many bands its files have, where ``bands`` is empty and that is known.
    """

    name: str
    bands: tuple[Band, ...]
    gsd: float
    unit: Unit
    scale: float
    offset: float
    expected: tuple[float, float]
    nodata: float | None = None
    others: tuple[Band, ...] = ()
    aliases: tuple[str, ...] = ()
    channels: int | None = None

    @property
    def optical(self) -> bool:
        """Whether it sees the sun's light, and so clouds."""
        return self.unit != "dB"

    @property
    def count(self) -> int | None:
        """How many bands its files have, if that is known."""
        return len(self.bands) or self.channels

    def band(self, name: str) -> Band | None:
        """Return the band of a name, in any of its spellings ("B8", "B08", "nir"); None if there is none."""
        wanted = plain(name)
        for band in (*self.bands, *self.others):
            if wanted in {plain(band.name), *map(plain, band.common)}:
                return band
        return None


def plain(name: str) -> str:
    """Return a name without case, punctuation and leading zeros of numbers, so that "B08" and "b_8" are equal."""
    kept = "".join(c for c in name.lower() if c.isalnum())
    return re.sub(r"(?<!\d)0+(?=\d)", "", kept)
