"""Scenes of any size as images of a sensor: which bands they have, and their values in physical units."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from ...datasets import Scene, open_scene
from ...datasets.raster import data_file, open_raster
from ...datasets.sensors import Band, Sensor, SensorImage, sensor

_UNNAMED = "unnamed"
_LARGEST = 2.0  # reflectance: bright clouds and snow on slopes
_SAMPLE = 512  # pixels on a side of what is looked at for the radiometry


@dataclass(frozen=True, eq=False)
class SensorScene:
    """A scene on disk whose bands are known; nothing is read before it is asked for.

    Args:
        scene: the file.
        bands: one for each band that ``scene.read`` delivers.
        scale, offset: value = number * scale + offset.
        gsd: metres on the ground from a pixel to the next.
        sensor: its name.
    """

    scene: Scene
    bands: tuple[Band, ...]
    scale: float
    offset: float
    gsd: float
    sensor: str

    def read(self, row: int, column: int, height: int, width: int) -> NDArray[np.float32]:
        """Values (bands, height, width) in physical units; NaN where there is no data, and beyond the edges."""
        grid = self.scene.grid
        top, left = max(row, 0), max(column, 0)
        bottom, right = min(row + height, grid.height), min(column + width, grid.width)
        values = np.full((len(self.bands), height, width), np.nan, dtype=np.float32)
        if bottom > top and right > left:
            found = self.scene.read(Window(left, top, right - left, bottom - top))
            part = values[:, top - row : bottom - row, left - column : right - column]
            np.multiply(found, np.float32(self.scale), out=part)
            part += np.float32(self.offset)
        return values

    def image(self) -> SensorImage:
        """Read the whole scene."""
        grid = self.scene.grid
        return SensorImage(self.read(0, 0, *grid.shape), self.bands, self.gsd, self.sensor, Path(self.scene.path).stem, grid=grid)


def open_sensor_scene(path: str | Path, name: str | None = None, *, gsd: float | None = None) -> SensorScene:
    """Open a scene of a sensor.

    Args:
        path: as for ``open_scene``.
        name: of the sensor, whose table tells the bands, scale and offset. Without it the file must tell wavelengths, and values
            must be reflectance after the scale and offset that the file tells.
        gsd: metres on the ground from a pixel to the next. Default: the sensor's, else that of a file in metres.

    Raises:
        FileNotFoundError: no such file.
        ValueError: bands that the sensor has not, bands without wavelengths, or values that are none of the sensor's.
    """
    scene = open_scene(path)
    if name is None:
        opened = _by_wavelengths(scene, gsd)
    else:
        known = sensor(name)
        opened = SensorScene(scene, _by_sensor(scene, known), known.scale, known.offset, gsd or known.gsd, known.name)
    _check_radiometry(opened, None if name is None else sensor(name))
    return opened


def _by_sensor(scene: Scene, known: Sensor) -> tuple[Band, ...]:
    """Bands by the file's descriptions where those are the sensor's names, else in the sensor's order."""
    count = len(scene.bands) + len(scene.dropped)
    names = {band.name.upper(): band for band in known.bands}
    with open_raster(data_file(scene.path)) as src:
        texts = [(text or "").strip().upper() for text in src.descriptions]
    if all(texts) and all(text in names for text in texts):
        return tuple(names[texts[band - 1]] for band in scene.bands)
    if count != len(known.bands):
        listed = ", ".join(band.name for band in known.bands[:13]) + (", ..." if len(known.bands) > 13 else "")
        raise ValueError(
            f"{scene.path}: {count} bands, but {known.name} has {len(known.bands)} ({listed}), and none are named so"
        )
    return tuple(known.bands[band - 1] for band in scene.bands)


def _by_wavelengths(scene: Scene, gsd: float | None) -> SensorScene:
    if scene.wavelengths is None:
        raise ValueError(f"{scene.path}: its bands have no wavelengths: name the sensor")
    bands = tuple(Band(f"{nm:.0f} nm", float(nm)) for nm in scene.wavelengths)
    with open_raster(data_file(scene.path)) as src:
        scales = {(src.scales[band - 1], src.offsets[band - 1]) for band in scene.bands}
    if len(scales) > 1:
        raise ValueError(f"{scene.path}: its bands have different scales and offsets: name the sensor")
    if gsd is None:
        crs, t = scene.grid.crs, scene.grid.transform
        if crs is None or not crs.is_projected:
            raise ValueError(f"{scene.path}: no grid in metres tells the size of its pixels: name the sensor, or give the gsd")
        gsd = float(np.sqrt(abs(t.a * t.e - t.b * t.d))) * float(crs.linear_units_factor[1])
    ((scale, offset),) = scales
    return SensorScene(scene, bands, scale, offset, gsd, _UNNAMED)


def _check_radiometry(opened: SensorScene, known: Sensor | None) -> None:
    """Compare a part of the scene with what the sensor measures; numbers of another scale end in nonsense without a word."""
    height, width = (min(side, _SAMPLE) for side in opened.scene.grid.shape)
    row, column = ((side - part) // 2 for side, part in zip(opened.scene.grid.shape, (height, width), strict=True))
    values = opened.read(row, column, height, width)
    values = values[np.isfinite(values)]
    if not len(values):
        return
    low, high = (float(v) for v in np.percentile(values, (1, 99)))
    least, most = (-0.2, _LARGEST) if known is None else known.expected
    slack = (most - least) / 2
    if low < least - slack or high > most + slack:
        unit = "reflectance" if known is None else known.unit
        owner = "a scene without a named sensor" if known is None else known.name
        raise ValueError(
            f"{opened.scene.path}: 98 % of the values lie in {low:.4g}..{high:.4g} {unit}, where {owner} has {least:g}..{most:g}:"
            " is it another sensor, or another scale?"
        )
