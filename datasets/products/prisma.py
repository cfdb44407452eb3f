"""PRISMA products of ASI in HDF-EOS 5: ``PRS_L2D_*.he5``, and L1, L2B and L2C in the geometry of the sensor.

Layout: ASI, PRISMA Products Specification Document, issue 2.3. A cube of each detector as (lines, bands, samples) in
``/HDFEOS/SWATHS/PRS_<level>_HCO/Data Fields``, whole numbers of 16 bits; what it all means is told by attributes of the file.
Wavelengths descend within each detector, and the detectors overlap around 950 nm: all bands are kept and sorted, as everywhere.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.windows import Window

from ..band_tags import BandTags
from ..grid import Grid
from ..hdf5 import HdfFile, find, has, hdf_errors, looks, number, numbers
from ..raster_source import Numbers
from ..scene import Scene, scene_of

logger = logging.getLogger(__name__)

_LEVELS = ("L2D", "L2C", "L2B", "L1")
_DETECTORS = ("Vnir", "Swir")
_PITCH = 30.0  # metres from a pixel of L2D to the next
_LARGEST = 65535.0  # the number of the upper end of the scale


def is_prisma(source: str) -> bool:
    """Whether a file holds PRISMA's swaths."""
    return bool(looks(source, lambda root: _level(root) is not None))


def _level(root: Any) -> str | None:
    return next((level for level in _LEVELS if has(root, f"HDFEOS/SWATHS/PRS_{level}_HCO/Data Fields")), None)


def open_prisma(source: str) -> Scene:
    """Open a PRISMA product: the bands of both detectors, those of the visible first.

    Pixels are no data where all numbers are 0: so L2D is filled up around the swath. Numbers of the other detector are brought to
    the scale of the first where the two differ. Bands without a wavelength, or whose flag is 0, are dropped. The error matrices
    are not applied. Only L2D lies on a grid of the map; the others open without one, with a warning.

    Raises:
        ValueError: damaged, or not laid out as the specification says.
    """
    file = HdfFile(source)
    try:
        with hdf_errors(source):
            root = file.root()
            level = _level(root)
            folder = f"HDFEOS/SWATHS/PRS_{level}_HCO/Data Fields"
            parts = [part for detector in _DETECTORS if (part := _detector(source, root, folder, detector, level)) is not None]
            if not parts:
                raise ValueError(f"{source}: neither VNIR_Cube nor SWIR_Cube in {folder}")
            if len({part.shape for part in parts}) > 1:
                raise ValueError(f"{source}: VNIR and SWIR are of different size, {parts[0].shape} and {parts[1].shape}")
            grid = _grid(source, root, level, parts[0].shape)
        centres, widths, good = (np.concatenate([getattr(part, key) for part in parts]) for key in ("centres", "widths", "good"))
        scale, offset = parts[0].scaling
        factors = tuple((part.scaling[0] / scale, (part.scaling[1] - offset) / scale) for part in parts)
        if len(set(factors)) > 1:
            logger.info("%s: SWIR has another scale than VNIR, its numbers are brought to that of VNIR", source)
        pixels = _Cubes(file, tuple(part.name for part in parts), tuple(len(part.centres) for part in parts), factors, grid.shape)
        known = bool((centres > 0).any())
        tags = BandTags(np.where(centres > 0, centres, np.nan) if known else None, widths if known else None, good)
        told = Numbers(np.dtype(np.uint16), True, ((scale, offset),), {"product": f"PRISMA {level}"})
        return scene_of(source, grid, tags, pixels, len(centres), nodata=0.0, numbers=told)
    finally:
        file.close()


@dataclass(frozen=True)
class _Detector:
    name: str
    shape: tuple[int, int]
    centres: NDArray[np.float64]
    widths: NDArray[np.float64]
    good: NDArray[np.bool_]
    scaling: tuple[float, float]


def _detector(source: str, root: Any, folder: str, detector: str, level: str | None) -> _Detector | None:
    name = f"{folder}/{detector.upper()}_Cube"
    cube = find(root, name)
    if cube is None:
        return None
    if cube.ndim != 3 or 0 in cube.shape:
        raise ValueError(f"{source}: {detector.upper()}_Cube has shape {cube.shape}, expected (lines, bands, samples)")
    height, count, width = (int(size) for size in cube.shape)
    centres, widths, flags = (numbers(root, f"List_{key}") for key in _keys(detector))
    if centres is None or len(centres) != count:
        told = "is not there" if centres is None else f"has {len(centres)} numbers"
        raise ValueError(f"{source}: attribute List_Cw_{detector} {told}, expected one for each of {count} bands")
    good = centres > 0 if flags is None or len(flags) != count else (centres > 0) & (flags != 0)
    widths = widths if widths is not None and len(widths) == count else np.zeros(count)
    return _Detector(name, (height, width), centres, widths, good, _scaling(source, root, detector, level))


def _keys(detector: str) -> tuple[str, str, str]:
    return f"Cw_{detector}", f"Fwhm_{detector}", f"Cw_{detector}_Flags"


def _scaling(source: str, root: Any, detector: str, level: str | None) -> tuple[float, float]:
    if level == "L1":  # radiance = number / factor - offset
        factor, less = number(root, f"ScaleFactor_{detector}"), number(root, f"Offset_{detector}")
        if factor is None or factor <= 0:
            raise ValueError(f"{source}: attribute ScaleFactor_{detector} is {factor}, expected a number above 0")
        return 1 / factor, -(less or 0.0)
    low, high = (number(root, f"L2Scale{detector}{end}") for end in ("Min", "Max"))
    if low is None or high is None or not low < high:
        raise ValueError(f"{source}: attributes L2Scale{detector}Min and Max are {low} and {high}, expected two that ascend")
    return (high - low) / _LARGEST, low


def _grid(source: str, root: Any, level: str | None, shape: tuple[int, int]) -> Grid:
    height, width = shape
    if level != "L2D":
        logger.warning("%s: %s is in the geometry of the sensor: the scene has no map coordinates (L2D has)", source, level)
        return Grid(height, width, None, Affine.identity())
    told = [
        number(root, f"Product_{corner}")
        for corner in ("ULcorner_easting", "ULcorner_northing", "LRcorner_easting", "LRcorner_northing")
    ]
    epsg = number(root, "Epsg_Code")
    left, top, right, bottom = (value for value in told if value is not None) if None not in told else (np.nan,) * 4
    # The corners are the centres of the outermost pixels where they are one pixel less apart than there are pixels.
    for less, half in ((1, 0.5), (0, 0.0)):
        if np.allclose(
            [right - left, top - bottom], [(width - less) * _PITCH, (height - less) * _PITCH], rtol=0, atol=0.01 * _PITCH
        ):
            transform = Affine(_PITCH, 0.0, left - half * _PITCH, 0.0, -_PITCH, top + half * _PITCH)
            break
    else:
        corners = f"corners {left:g}, {top:g} and {right:g}, {bottom:g}"
        raise ValueError(f"{source}: {corners} are not those of {height} x {width} pixels of {_PITCH:g} m")
    try:
        return Grid(height, width, CRS.from_epsg(int(epsg or 0)), transform)
    except CRSError as error:
        raise ValueError(f"{source}: attribute Epsg_Code is {epsg}, expected the code of a projection") from error


@dataclass(frozen=True, eq=False)
class _Cubes:
    file: HdfFile
    names: tuple[str, ...]
    counts: tuple[int, ...]
    factors: tuple[tuple[float, float], ...]
    shape: tuple[int, int]

    @property
    def block(self) -> tuple[int, int]:
        return 32, self.shape[1]  # lines: cubes are stored without chunks, samples of a line and band side by side

    def read(self, bands: Sequence[int], window: Window | None) -> NDArray[np.float32]:
        rows, columns = (slice(0, self.shape[0]), slice(0, self.shape[1])) if window is None else window.toslices()
        height, width = rows.stop - rows.start, columns.stop - columns.start
        values = np.empty((len(bands), height, width), dtype=np.float32)
        filled = np.ones((height, width), dtype=bool)
        wanted = np.asarray(bands) - 1
        first = 0
        for name, count, (factor, shift) in zip(self.names, self.counts, self.factors, strict=True):
            with hdf_errors(self.file.path):
                # Both detectors whatever the bands are: a pixel is no data where all its numbers are 0.
                cube = self.file.dataset(name)[rows, :, columns]
            filled &= ~cube.any(axis=1)
            own = (wanted >= first) & (wanted < first + count)
            part = cube[:, wanted[own] - first].transpose(1, 0, 2).astype(np.float32)
            values[own] = part if (factor, shift) == (1.0, 0.0) else part * np.float32(factor) + np.float32(shift)
            first += count
        values[:, filled] = np.nan
        return values
