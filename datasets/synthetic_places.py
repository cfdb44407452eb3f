"""Made-up places as several sensors see them, for notebooks, tests and trainings without data.

A place is a mosaic of land cover: waters, woods, meadows, parcels of fields, villages with roads, bare ground, snow, on a relief;
landscapes differ in what there is, in its scale, season and dryness, and in the spectra of all that it is made of.
Optical bands of any sensor follow from the spectra of ``materials`` at their wavelengths, the state of plants and soils, light
and shadow on slopes, haze, and noise; radar from backscatter that is typical of covers (Ulaby and Dobson 1989, Handbook of Radar
Scattering Statistics for Terrain, for C-band: smooth water lowest, woods bright in cross polarisation, buildings brightest in
like polarisation), moisture, slopes, and speckle.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS

from .grid import Grid
from .random_fields import blur, field, rough_field
from .sensors import Sensor, SensorImage, sensor
from .synthetic_ground import COVERS, GROUND, Ground, make_ground
from .writing import atomic, write_class_map

_Array = NDArray[np.float64]

_PIXEL = 10.0  # metres
# dB of like and of cross polarisation in C-band, by material, and what a state of 1 adds to both.
_BACKSCATTER = {
    "water": (-21.0, -28.0, 4.0), "trees": (-8.5, -14.0, 1.5), "meadow": (-12.5, -19.0, 2.0), "bare soil": (-13.0, -22.0, 3.5),
    "asphalt": (-15.0, -24.0, 2.0), "concrete": (-4.5, -13.0, 3.0), "dry grass": (-11.5, -18.0, 2.0),
    "tile roof": (-3.0, -11.5, 3.0), "snow": (-15.0, -22.5, 3.0),
}  # fmt: skip
_SPECKLE = 0.7  # pixels over which products of 10 m are smoothed: about six looks


@dataclass(frozen=True, eq=False)
class SyntheticPlace:
    """A place, in all its sensors' images.

    Args:
        images: by sensor.
        cover: uint8 (height, width), of ``COVERS``, in pixels of 10 m.
        height: of the ground in metres, (height, width).
        grid: of cover and height.
    """

    images: Mapping[str, SensorImage]
    cover: NDArray[np.uint8]
    height: _Array
    grid: Grid


def synthetic_place(
    seed: int, *, size: int = 128, sensors: Sequence[str] = ("sentinel-2-l2a", "sentinel-1-rtc"), name: str | None = None
) -> SyntheticPlace:
    """Make a place; the same arguments give the same.

    Args:
        seed: tells all that is random; images of one sensor do not depend on which others there are.
        size: pixels of 10 m on each side.
        sensors: of the table of sensors, with reflective bands of 400 to 2500 nm or with radar bands.
        name: of the place; by default of its seed.

    Raises:
        ValueError: a sensor that cannot be made, or a size under 32 or that a sensor's pixels do not fill.
    """
    chosen = [_possible(sensor(each), size) for each in sensors]
    rng = np.random.default_rng((seed, 0))
    grid = Grid(size, size, CRS.from_epsg(32633), Affine(_PIXEL, 0, 300000.0 + 40 * _PIXEL * seed, 0, -_PIXEL, 5800000.0))
    height = rough_field(rng, grid.shape, 2.0) * np.exp(rng.uniform(0, 4)) + rng.uniform(0, 800)
    ground = make_ground(rng, height)
    light = _light(rng, height) * ground.brightness
    echoes = rng.normal(0, [[1.2], [0.8]], (2, len(GROUND)))
    images = {}
    for each in chosen:
        own = np.random.default_rng((seed, *each.name.encode()))
        optical = each.unit == "reflectance"
        values = _optical(own, each, ground, light) if optical else _radar(own, each, ground, echoes, height)
        step = round(each.gsd / _PIXEL)
        if step > 1:
            values = values.reshape(len(values), size // step, step, size // step, step).mean((2, 4))
        place = grid.resized(*values.shape[1:])
        images[each.name] = SensorImage(values.astype(np.float32), each.bands, each.gsd, each.name, name or f"place{seed}", place)
    return SyntheticPlace(images, ground.cover, height, grid)


def synthesize_places(
    folder: str | Path,
    *,
    places: int = 6,
    size: int = 128,
    sensors: Sequence[str] = ("sentinel-2-l2a", "sentinel-1-rtc"),
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Write places as ``FOLDER/SENSOR/PLACE.tif`` and their land cover as ``FOLDER/LULC/PLACE.tif``.

    Values are numbers as the sensor's files have them: see ``Sensor.scale``. Bands are named.

    Raises:
        ValueError: as in ``synthetic_place``.
        FileExistsError, OSError: as in ``writing.atomic``.
    """
    for number in range(places):
        place = synthetic_place(seed + number, size=size, sensors=sensors)
        for image in place.images.values():
            path = Path(folder, image.sensor, f"{image.name}.tif")
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, image, overwrite)
        path = Path(folder, "LULC", f"place{seed + number}.tif")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_class_map(path, place.cover, place.grid, COVERS, overwrite=overwrite)


def _possible(each: Sensor, size: int) -> Sensor:
    step = each.gsd / _PIXEL
    if step < 1 or step != round(step) or size % round(step) or size < 32:
        raise ValueError(f"a place of {size} pixels of {_PIXEL:g} m cannot be seen by {each.name} in pixels of {each.gsd:g} m")
    if not each.bands:
        raise ValueError(f"the table has no bands of {each.name}: its files tell them")
    for band in each.bands:
        if band.polarization is None and not 400 <= (band.wavelength or 0) <= 2500:
            raise ValueError(f"band {band.name} of {each.name} cannot be made: only radar and 400 to 2500 nm can")
    return each


def _light(rng: np.random.Generator, height: _Array) -> _Array:
    """Return direct light on slopes, about 1: the cosine to the sun over that on flat ground (Lambert's law)."""
    down, across = np.gradient(height, _PIXEL)
    elevation, azimuth = np.deg2rad(rng.uniform(18, 65)), rng.uniform(0, 2 * np.pi)
    towards = np.cos(azimuth) * across + np.sin(azimuth) * down
    cosine = (np.sin(elevation) - np.cos(elevation) * towards) / np.sqrt(1 + across**2 + down**2)
    light: _Array = (0.15 + 0.85 * cosine / np.sin(elevation)).clip(0.1, 2.0)  # a part comes from all of the sky
    return light


def _optical(rng: np.random.Generator, each: Sensor, ground: Ground, light: _Array) -> _Array:
    """Return reflectance (bands, height, width): of the surface, or above the air where the sensor's name says L1."""
    w = np.array([band.wavelength for band in each.bands], dtype=np.float64)
    state = ground.state
    values = np.zeros((len(w), *state.shape))
    for number, share in enumerate(ground.shares):
        low, high = (ground.spectrum(number, w, end)[:, None, None] for end in (0.0, 1.0))
        values += share * (low * (1 - state) + high * state)
    values = (values * light.clip(0.05, 2.5)).clip(0, 1.2)
    haze = rng.uniform(0.1, 1.0) * (1 + 0.3 * field(rng, (state.shape[0], state.shape[1]), 20)).clip(0.2)
    through: _Array = np.ones(1)
    path = 0.02 * haze * (490 / w)[:, None, None] ** 1.3 * 0.3  # what correction for the air leaves over
    if "l1" in each.name:
        rayleigh = 0.09 * (443 / w)[:, None, None] ** 4
        path = rayleigh + 0.05 * haze * (490 / w)[:, None, None] ** 1.3
        vapour = np.exp(-(2.5 * _near(w, 1375, 25) + 0.35 * _near(w, 945, 20)) * rng.uniform(0.6, 1.6))[:, None, None]
        through = (1 - 1.6 * path).clip(0.4) * vapour
    values = path + through * values
    values = values * (1 + 0.02 * rng.standard_normal((len(w), 1, 1)))  # calibration
    for number, band in enumerate(each.bands):
        factor = round((band.gsd or each.gsd) / each.gsd) if each.gsd == _PIXEL else 1
        values[number] = _coarse(values[number] + 0.002 * rng.standard_normal(state.shape), factor)
    seen: _Array = values.clip(1e-4)
    return seen


def _coarse(values: _Array, factor: int) -> _Array:
    """Return means of squares of pixels, in all pixels of each."""
    if factor == 1:
        return values
    height, width = values.shape
    padded = np.pad(values, ((0, -height % factor), (0, -width % factor)), mode="edge")
    means = padded.reshape(padded.shape[0] // factor, factor, padded.shape[1] // factor, factor).mean((1, 3))
    seen: _Array = np.repeat(np.repeat(means, factor, 0), factor, 1)[:height, :width]
    return seen


def _near(w: _Array, centre: float, width: float) -> _Array:
    return np.exp(-0.5 * ((w - centre) / width) ** 2)


def _radar(rng: np.random.Generator, each: Sensor, ground: Ground, echoes: _Array, height: _Array) -> _Array:
    """Return backscatter (bands, height, width) in dB; ``echoes`` are added to it, (polarisations, materials)."""
    state = ground.state
    wet = rng.uniform(-1, 1.5)
    power = np.zeros((2, *state.shape))
    for share, material, echo in zip(ground.shares, GROUND, echoes.T, strict=True):
        like, cross, more = _BACKSCATTER[material.name]
        dry = 0.0 if material.name in ("water", "concrete", "tile roof", "asphalt") else wet
        level = (np.array([like, cross]) + echo)[:, None, None] + dry + more * (state - 0.5)
        power += share * 10 ** (level / 10)
    slope = np.gradient(height, _PIXEL, axis=1) * rng.choice([-1.0, 1.0])
    power *= 10 ** (0.1 * (6 * slope).clip(-4, 4))  # what correction for the terrain leaves over
    bands = np.array([0 if band.polarization in ("VV", "HH") else 1 for band in each.bands])
    speckle = blur(rng.exponential(size=(len(bands), *state.shape)), _SPECKLE)
    decibels: _Array = 10 * np.log10((power[bands] * speckle).clip(1e-5))
    return decibels


def _write(path: Path, image: SensorImage, overwrite: bool) -> None:
    made = sensor(image.sensor)
    numbers = (image.values - made.offset) / made.scale
    dtype = "int16" if made.unit == "reflectance" else "float32"
    stored = np.round(numbers).clip(1, 32767).astype(np.int16) if dtype == "int16" else numbers
    assert image.grid is not None
    profile = {
        "driver": "GTiff", "count": len(stored), "height": image.grid.height, "width": image.grid.width, "dtype": dtype,
        "crs": image.grid.crs, "transform": image.grid.transform, "compress": "deflate",
    }  # fmt: skip
    with atomic(path, overwrite) as target, rasterio.open(target, "w", **profile) as dst:
        dst.write(stored)
        if dtype == "int16":  # else whoever reads a bright place cannot tell that 1000 was added
            dst.scales, dst.offsets = (made.scale,) * dst.count, (made.offset,) * dst.count
        for number, band in enumerate(image.bands, start=1):
            dst.set_band_description(number, band.name)
