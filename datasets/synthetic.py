"""A made-up labelled scene that behaves like a real one, for the demo and for tests without data."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS

from .classes import ClassInfo
from .grid import Grid
from .materials import MATERIALS, Material
from .random_fields import blur, field
from .writing import atomic, write_class_map

_Array = NDArray[np.float64]

_NODATA = -32768
_SCALE = 10000.0
_NOISY_NM, _EMPTY_NM = (1350.0, 1450.0), (1800.0, 1950.0)  # water vapour: flagged bad, and not delivered at all


class SyntheticScene(NamedTuple):
    """Files of a synthetic scene: the image, sparse labels to train on, and the class of every pixel."""

    scene: Path
    labels: Path
    truth: Path


def synthesize_scene(
    folder: str | Path,
    *,
    height: int = 120,
    width: int = 150,
    bands: int = 120,
    classes: int = 6,
    seed: int = 0,
    overwrite: bool = False,
) -> SyntheticScene:
    """Write ``scene.tif``, ``labels.tif`` and ``truth.tif`` into ``folder``; the same arguments give the same files.

    The scene is int16 reflectance x 10000 in EPSG:32633 at 30 m, nodata outside a slanted swath, from two detectors whose bands
    overlap (so that wavelengths do not rise throughout), with a flagged and an empty water-vapour range. Materials vary, mix
    at their borders, and are lit unevenly: pixel spectra alone do not tell them apart fully.

    Raises:
        ValueError: fewer than 16 pixels a side or 16 bands, or a number of classes other than 2..8.
        FileExistsError, OSError: as in ``writing.atomic``.
    """
    if min(height, width, bands) < 16 or not 2 <= classes <= len(MATERIALS):
        raise ValueError(
            f"synthetic scene of {height} x {width} x {bands}, {classes} classes: needs 16 a side, 2..{len(MATERIALS)} classes"
        )
    files = SyntheticScene(*(Path(folder) / name for name in ("scene.tif", "labels.tif", "truth.tif")))
    rng = np.random.default_rng(seed)
    grid = Grid(height, width, CRS.from_epsg(32633), Affine(30.0, 0.0, 364095.0, 0.0, -30.0, 5809965.0))
    materials = MATERIALS[:classes]
    truth = np.stack([field(rng, grid.shape, 9) + 0.5 * field(rng, grid.shape, 3) for _ in materials]).argmax(0)
    wavelengths, fwhm = _sensor(bands)
    cube = _reflectance(rng, truth, materials, wavelengths)

    stored = np.round(cube * _SCALE).clip(_NODATA + 1, 32767).astype(np.int16)
    swath = _swath(grid.shape)
    stored[:, ~swath] = _NODATA
    stored[_within(wavelengths, _EMPTY_NM)] = _NODATA
    _write_scene(files.scene, stored, grid, wavelengths, fwhm, overwrite)

    infos = [ClassInfo(value, material.name, material.color) for value, material in enumerate(materials, start=1)]
    values = np.where(swath, truth + 1, 0)
    write_class_map(files.truth, values, grid, infos, overwrite=overwrite)
    write_class_map(files.labels, _plots(rng, values), grid, infos, overwrite=overwrite)
    return files


def _sensor(bands: int) -> tuple[_Array, _Array]:
    """Band centres and widths (nm) in file order: a detector for 420..1000 nm, then one for 900..2450 nm."""
    first = bands * 3 // 8
    parts = np.linspace(420, 1000, first), np.linspace(900, 2450, bands - first)
    return np.concatenate(parts), np.concatenate([np.full(len(part), 1.1 * (part[1] - part[0])) for part in parts])


def _within(w: _Array, limits: tuple[float, float]) -> NDArray[np.bool_]:
    return (w >= limits[0]) & (w <= limits[1])


def _reflectance(rng: np.random.Generator, truth: NDArray[np.intp], materials: tuple[Material, ...], w: _Array) -> _Array:
    shape = truth.shape
    cube = np.zeros((len(w), *shape))
    for index, material in enumerate(materials):
        share = blur((truth == index).astype(np.float64), 0.9)  # the point spread function mixes neighbours
        state = (0.5 + 0.22 * field(rng, shape, 5) + 0.22 * rng.standard_normal(shape)).clip(0, 1)
        low, high = material.spectrum(w, 0.0), material.spectrum(w, 1.0)
        cube += share * (low[:, None, None] * (1 - state) + high[:, None, None] * state)
    light = (1 + 0.16 * field(rng, shape, 12) + 0.05 * rng.standard_normal(shape)).clip(0.45, 1.5)
    stripes = 1 + 0.01 * rng.standard_normal((len(w), 1, shape[1]))
    # Sunlight, and with it the signal, falls towards longer waves and nearly vanishes in water vapour.
    noise = 0.006 + 0.010 * (w - 400) / 2000 + 0.25 * _within(w, _NOISY_NM)
    cube *= light * stripes
    cube += noise[:, None, None] * rng.standard_normal(cube.shape)
    return cube


def _swath(shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels inside a strip that leans by 12 degrees and leaves two corners of the grid without data."""
    rows, columns = np.indices(shape) + 0.5
    across = (columns - shape[1] / 2) - np.tan(np.deg2rad(12)) * (rows - shape[0] / 2)
    inside: NDArray[np.bool_] = np.abs(across) < 0.46 * shape[1]
    return inside


def _plots(rng: np.random.Generator, values: NDArray[np.intp], share: float = 0.06) -> NDArray[np.intp]:
    """Keep the labels of small random plots of one class each, until they cover ``share`` of every class."""
    rows, columns = np.indices(values.shape)
    keep = np.zeros(values.shape, dtype=bool)
    for value in np.unique(values[values > 0]).tolist():
        mine = values == value
        order = rng.permutation(np.argwhere(mine))
        for row, column in order:
            if (keep & mine).sum() >= max(12, share * mine.sum()):
                break
            keep |= mine & ((rows - row) ** 2 + (columns - column) ** 2 <= 5)
    return np.where(keep, values, 0)


def _write_scene(path: Path, cube: NDArray[np.int16], grid: Grid, w: _Array, fwhm: _Array, overwrite: bool) -> None:
    profile = {
        "driver": "GTiff", "count": len(cube), "height": grid.height, "width": grid.width, "dtype": "int16", "nodata": _NODATA,
        "crs": grid.crs, "transform": grid.transform, "compress": "deflate", "predictor": 2, "interleave": "pixel",
        "tiled": True, "blockxsize": 64, "blockysize": 64,
    }  # fmt: skip
    bad = _within(w, _NOISY_NM)
    with atomic(path, overwrite) as target, rasterio.open(target, "w", **profile) as dst:
        dst.write(cube)
        for band, (centre, width) in enumerate(zip(w.tolist(), fwhm.tolist(), strict=True), start=1):
            dst.update_tags(
                band, wavelength=f"{centre:.2f}", wavelength_units="Nanometers", fwhm=f"{width:.2f}", bbl=int(not bad[band - 1])
            )
            dst.update_tags(band, ns="IMAGERY", CENTRAL_WAVELENGTH_UM=f"{centre / 1000:.5f}", FWHM_UM=f"{width / 1000:.5f}")
            dst.set_band_description(band, f"{centre:.0f} nm")
