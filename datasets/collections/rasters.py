"""Rasters as layers of a sensor, masks and labels."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.windows import Window

from ..band_tags import alpha_bands, band_tags
from ..grid import Grid
from ..opening import is_plain, open_scene
from ..raster import data_file, grid_of, open_raster
from ..raster_source import RasterSource, gdal_numbers
from ..scene import Scene
from ..sensors import Band, Sensor
from ..sensors.table import with_count
from .layer import Layer

_SHORTEST, _LONGEST = 200.0, 20_000.0  # nm: ultraviolet to thermal infrared
_NEAR = 0.02  # of a wavelength: by that much bands of one name differ within a series of satellites
# Sentinel-2's scene classification: no data, defective, cloud shadow, clouds of medium and high probability, thin cirrus.
SCL_HIDDEN = (0, 1, 3, 8, 9, 10)


def open_layer(path: str | Path, sensor: Sensor, *, bands: Sequence[str | None] | None = None) -> Layer:
    """Open a raster as an image of a sensor.

    Bands are found by ``bands``, else by the names that the file gives them, else by the wavelengths that it gives them, else
    by their number: the sensor's in its order.

    Args:
        path: what ``open_scene`` reads.
        sensor: which.
        bands: their names in the file's order; None for those that are passed over.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a raster, damaged, or its bands are not the sensor's.
    """
    name = str(path)
    if not sensor.bands:
        return _spectral_layer(name, sensor)
    if not is_plain(name):
        return _scene_layer(name, sensor, bands)
    file = data_file(name)
    with open_raster(file) as src:
        indices = tuple(band for band in src.indexes if band not in alpha_bands(src))
        if src.dtypes[0].startswith("complex"):
            raise ValueError(f"{file}: data type {src.dtypes[0]}, expected real numbers")
        if bands is not None:
            indices = picked(file, indices, bands)
            found = named_bands(file, sensor, [name for name in bands if name is not None])
        else:
            centres = band_tags(src).wavelengths
            told = None if centres is None else [float(centres[i - 1]) for i in indices]
            found = told_bands(file, sensor, [src.descriptions[i - 1] or "" for i in indices], told)
        source = RasterSource.of(file, src)
        numbers = gdal_numbers(src, source)
        return Layer(
            where=file,
            sensor=sensor,
            bands=found,
            indices=indices,
            grid=grid_of(src),
            source=source,
            whole=numbers.dtype.kind in "ui",
            bits=8 * numbers.dtype.itemsize,
            marked=numbers.marked,
            tags=numbers.tags,
            scaling=numbers.scaling(file),
        )


def _scene_layer(name: str, sensor: Sensor, bands: Sequence[str | None] | None) -> Layer:
    """A scene of another kind than GDAL's, whose bands are of a sensor."""
    scene = open_scene(name)
    if bands is not None:
        indices = picked(name, sorted(scene.bands), bands)
        scene = scene.with_bands([scene.bands.index(band) for band in indices])
        return _layer_of(scene, sensor, named_bands(name, sensor, [name for name in bands if name is not None]))
    told = None if scene.wavelengths is None else scene.wavelengths.tolist()
    return _layer_of(scene, sensor, told_bands(name, sensor, [""] * scene.num_bands, told))


def _layer_of(scene: Scene, sensor: Sensor, found: tuple[Band, ...]) -> Layer:
    return Layer(
        where=scene.path,
        sensor=sensor,
        bands=found,
        indices=scene.bands,
        grid=scene.grid,
        source=_SceneSource(scene),
        whole=scene.numbers.dtype.kind in "ui",
        bits=8 * scene.numbers.dtype.itemsize,
        marked=scene.numbers.marked,
        tags=scene.numbers.tags,
        scaling=scene.numbers.scaling(scene.path),
    )


def _spectral_layer(path: str, sensor: Sensor) -> Layer:
    """An imaging spectrometer's scene, whose file tells its wavelengths."""
    scene = open_scene(path)
    if scene.wavelengths is None:
        raise ValueError(f"{path}: its bands have no wavelengths, which those of {sensor.name} must have in the file")
    return _layer_of(scene, sensor, spectral_bands(path, scene.bands, scene.wavelengths.tolist()))


def spectral_bands(where: str, numbers: Sequence[int], wavelengths: Sequence[float]) -> tuple[Band, ...]:
    """Return bands of numbers counted from 1, at wavelengths in nm.

    Raises:
        ValueError: a wavelength is none in nm.
    """
    check_wavelengths(where, wavelengths)
    return tuple(Band(f"B{i:03d}", w) for i, w in zip(numbers, wavelengths, strict=True))


@dataclass(frozen=True, eq=False)
class _SceneSource:
    scene: Scene

    def read(self, bands: Sequence[int], window: Window | None) -> NDArray[np.float32]:
        values = self.scene.read(window)
        return values if tuple(bands) == self.scene.bands else values[[self.scene.bands.index(band) for band in bands]]


def check_wavelengths(where: str, wavelengths: Sequence[float]) -> None:
    """Raise a ValueError if some wavelength is none in nm."""
    for wavelength in wavelengths:
        if not _SHORTEST <= wavelength <= _LONGEST:
            hint = ": it looks like micrometres" if 0.2 <= wavelength <= 20 else ""
            raise ValueError(f"{where}: wavelength {wavelength:g} nm{hint}, expected {_SHORTEST:g}..{_LONGEST:g} nm")


def picked(where: str, indices: Sequence[int], names: Sequence[str | None]) -> tuple[int, ...]:
    """Return the indices of bands that have a name.

    Raises:
        ValueError: another number of names than of bands.
    """
    if len(names) != len(indices):
        shown = ", ".join(str(name) for name in names)
        raise ValueError(f"{where}: {len(indices)} bands, but {len(names)} names are given: {shown}")
    return tuple(index for index, name in zip(indices, names, strict=True) if name is not None)


def told_bands(where: str, sensor: Sensor, names: Sequence[str], wavelengths: Sequence[float] | None) -> tuple[Band, ...]:
    """Return the sensor's bands in the order of the file, by names ("" for none), else wavelengths in nm, else their number.

    Raises:
        ValueError: none of these tells them.
    """
    count = len(names)
    described = [sensor.band(re.split(r"[,;:(\s]", name.strip(), maxsplit=1)[0]) if name else None for name in names]
    found = [band for band in described if band is not None]
    if len({band.name for band in found}) == count:
        return tuple(found)
    if wavelengths is not None and not any(isnan(w) for w in wavelengths) and sensor.optical:
        return bands_at(where, sensor, wavelengths)
    if count == len(sensor.bands):
        return sensor.bands
    hint = f"; {count} bands have {', '.join(fits)}" if (fits := with_count(count)) else ""
    raise ValueError(
        f"{where}: {count} bands without names, expected the {len(sensor.bands)} of {sensor.name} "
        f"({', '.join(band.name for band in sensor.bands)}){hint}; or name them"
    )


def band_at(sensor: Sensor, wavelength: float) -> Band | None:
    """Return the band of a sensor that is the nearest to a wavelength in nm; None if it is not near."""
    optical = [(band.wavelength, band) for band in sensor.bands if band.wavelength is not None]
    centre, best = min(optical, key=lambda pair: abs(pair[0] - wavelength), default=(0.0, None))
    return best if abs(centre - wavelength) <= _NEAR * wavelength else None


def bands_at(where: str, sensor: Sensor, wavelengths: Sequence[float]) -> tuple[Band, ...]:
    """Return the bands of a sensor at wavelengths in nm.

    Raises:
        ValueError: there is none near, or two are the same.
    """
    check_wavelengths(where, wavelengths)
    found = []
    for wavelength in wavelengths:
        if (band := band_at(sensor, wavelength)) is None:
            raise ValueError(f"{where}: {sensor.name} has no band at {wavelength:g} nm")
        if band in found:
            raise ValueError(f"{where}: two bands of {sensor.name} are at {wavelength:g} nm")
        found.append(band)
    return tuple(found)


def named_bands(where: str, sensor: Sensor, names: Sequence[str]) -> tuple[Band, ...]:
    """Return bands of a sensor by their names.

    Raises:
        ValueError: it has no such band, or a band is named twice.
    """
    found = []
    for name in names:
        band = sensor.band(name)
        if band is None:
            allowed = ", ".join(band.name for band in (*sensor.bands, *sensor.others))
            raise ValueError(f"{where}: {sensor.name} has no band {name!r}, allowed are {allowed}")
        found.append(band)
    if len(set(found)) < len(found):
        raise ValueError(f"{where}: a band is named twice: {', '.join(names)}")
    return tuple(found)


@dataclass(frozen=True)
class RasterMask:
    """A raster that tells clouds: Sentinel-2's scene classification, or one that is not 0 where pixels are hidden."""

    path: str
    classes: bool
    grid: Grid

    @classmethod
    def of(cls, path: str | Path, *, classes: bool) -> "RasterMask":
        """Look at a file."""
        with open_raster(str(path)) as src:
            return cls(str(path), classes, grid_of(src))

    def read(self, window: Window, shape: tuple[int, int], of: tuple[int, int]) -> NDArray[np.bool_]:
        """Return True where pixels are hidden, by the nearest of its pixels."""
        down, across = self.grid.height / of[0], self.grid.width / of[1]
        own = Window(window.col_off * across, window.row_off * down, window.width * across, window.height * down)
        with open_raster(self.path) as src:
            codes = src.read(1, window=own, out_shape=shape, resampling=Resampling.nearest)
        hidden: NDArray[np.bool_] = np.isin(codes, SCL_HIDDEN) if self.classes else codes != 0
        return hidden


@dataclass(frozen=True)
class LabelRaster:
    """A raster of classes, 0 where there is none."""

    where: str
    grid: Grid

    @classmethod
    def of(cls, path: Path) -> "LabelRaster":
        """Look at a file.

        Raises:
            ValueError: more than one band, or not whole numbers.
        """
        with open_raster(str(path)) as src:
            if src.count != 1 or np.dtype(src.dtypes[0]).kind not in "ui":
                raise ValueError(f"{path}: {src.count} bands of {src.dtypes[0]}, expected classes as one band of whole numbers")
            return cls(str(path), grid_of(src))

    def read(self, window: Window | None = None) -> NDArray[np.int64]:
        """Return classes (height, width), 0 where the file has no data."""
        with open_raster(self.where) as src:
            codes: NDArray[np.int64] = src.read(1, window=window).astype(np.int64)
            codes[src.read_masks(1, window=window) == 0] = 0
        return codes
