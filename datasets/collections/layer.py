"""Images of one sensor at one place, on disk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import cos, radians
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from ..grid import Grid
from ..sensors import Band, Radiometry, Sample, Sensor, decide_radiometry

# The sample that radiometry is decided by: 4 x 4 windows of 64 x 64 pixels, and if those see no data, as at the edge of a swath,
# 16 x 16 of them.
_SAMPLE_SIDE, _SAMPLE_WINDOWS = 64, (4, 16)
_IMAGES, _IMAGE_SIDE = 8, 128  # of images in one array: parts of some of them
_METRES_PER_DEGREE = 111_320.0  # of latitude, on a sphere of the WGS 84 mean radius
_TOLERANCE_PX = 0.05  # products of one place differ by rounding of the origin; a real shift is a large part of a pixel


class Source(Protocol):
    """Pixels on disk; opened for each call, so that it may be sent to other processes."""

    def read(self, bands: Sequence[int], window: Window | None) -> NDArray[np.float32]:
        """Bands (counted from 1) as (bands, height, width), NaN where there is no data."""
        ...


class Mask(Protocol):
    """What hides pixels, such as clouds."""

    def read(self, window: Window, shape: tuple[int, int], of: tuple[int, int]) -> NDArray[np.bool_]:
        """Return ``shape`` booleans, True where hidden, for a window of an image of size ``of``."""
        ...


@dataclass(frozen=True, eq=False)
class Layer:
    """Images of one sensor at one place.

    Args:
        where: the file, for messages.
        sensor: which.
        bands: one for each of ``indices``.
        indices: of the bands in the source, counted from 1.
        grid: where the pixels lie.
        source: of pixels.
        whole: whether numbers are whole; ``bits`` of each.
        marked: whether the source itself knows what is no data, so that the sensor's usual number need not be looked for.
        tags: what file and catalogue tell, keys in lower case.
        scaling: (scale, offset) that the file tells.
        mask: of clouds.
        sampled: what radiometry is decided by, such as the whole scene, or images of the same array; none for the layer itself.
        told: radiometry that the user tells.
    """

    where: str
    sensor: Sensor
    bands: tuple[Band, ...]
    indices: tuple[int, ...]
    grid: Grid
    source: Source
    whole: bool = False
    bits: int = 32
    marked: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)
    scaling: tuple[float, float] | None = None
    mask: Mask | None = None
    sampled: tuple["Layer", ...] = ()
    told: Radiometry | None = None

    @property
    def gsd(self) -> float:
        """Metres on the ground from a pixel to the next."""
        return ground_pitch(self.grid) or self.sensor.gsd

    @property
    def key(self) -> tuple[str, str]:
        """What shares a radiometry."""
        return (self.sampled[0] if self.sampled else self).where, self.sensor.name

    def numbers(self, bands: Sequence[int], window: Window | None) -> NDArray[np.float32]:
        """Return the numbers of bands (positions, from 0) as the file holds them, NaN where there is no data."""
        numbers = self.source.read([self.indices[i] for i in bands], window)
        nodata = self.sensor.nodata
        if nodata is not None and not self.marked and (self.whole or nodata < 0):
            numbers[numbers == nodata] = np.nan
        return numbers

    def values(self, radiometry: Radiometry, bands: Sequence[int], window: Window | None) -> NDArray[np.float32]:
        """Return float32 values in the sensor's unit, NaN where there is no data, or where the mask hides them."""
        values = radiometry(self.numbers(bands, window))
        if self.mask is not None:
            at = window or Window(0, 0, self.grid.width, self.grid.height)
            values[:, self.mask.read(at, values.shape[1:], self.grid.shape)] = np.nan
        return values

    def decide(self) -> Radiometry:
        """Find out what the numbers mean, from tags and a sample of the whole file.

        Raises:
            ValueError: they are not what the sensor measures, or the file cannot be read.
        """
        if self.told is not None:
            return self.told
        return decide_radiometry(self.sensor, [layer.sample() for layer in self.sampled or (self,)])

    def sample(self) -> Sample:
        """Return numbers from all over the image."""
        every = range(len(self.bands))
        for count in _SAMPLE_WINDOWS:
            windows = sample_windows(self.grid.shape, count)
            numbers = np.concatenate([self.numbers(every, window).reshape(len(every), -1) for window in windows], 1)
            if np.isfinite(numbers).any():
                break
        return self.sample_of(numbers)

    def sample_of(self, numbers: NDArray[np.float32]) -> Sample:
        """Return numbers (bands, pixels) from all over the image, with what is known of them."""
        return Sample(numbers, self.bands, self.whole, self.bits, self.where, self.tags, self.scaling)

    def part(self, column: int, row: int, width: int, height: int) -> "Layer":
        """Return a window of it as a layer of its own."""
        return replace(
            self,
            grid=self.grid.part(column, row, width, height),
            source=_Part(self.source, column, row, width, height),
            mask=None if self.mask is None else _MaskPart(self.mask, column, row, self.grid.shape),
            sampled=self.sampled or (self,),
        )


@dataclass(frozen=True)
class _Part:
    source: Source
    column: int
    row: int
    width: int
    height: int

    def read(self, bands: Sequence[int], window: Window | None) -> NDArray[np.float32]:
        window = window or Window(0, 0, self.width, self.height)
        return self.source.read(bands, _moved(window, self.column, self.row))


@dataclass(frozen=True)
class _MaskPart:
    mask: Mask
    column: int
    row: int
    whole: tuple[int, int]

    def read(self, window: Window, shape: tuple[int, int], of: tuple[int, int]) -> NDArray[np.bool_]:
        del of  # the part's own size: the mask covers the whole
        return self.mask.read(_moved(window, self.column, self.row), shape, self.whole)


def _moved(window: Window, column: int, row: int) -> Window:
    return Window(window.col_off + column, window.row_off + row, window.width, window.height)


def together(layers: Sequence[Layer]) -> list[Layer]:
    """Return layers of one array or data set, whose radiometry is decided by some of them for all."""
    picked = [layers[i] for i in np.unique(np.linspace(0, len(layers) - 1, _IMAGES).astype(int))]
    samples = []
    for layer in picked:
        height, width = (min(size, _IMAGE_SIDE) for size in layer.grid.shape)
        top, left = (layer.grid.height - height) // 2, (layer.grid.width - width) // 2
        samples.append(layer.part(left, top, width, height))
    return [replace(layer, sampled=tuple(replace(sample, sampled=()) for sample in samples)) for layer in layers]


def sample_windows(shape: tuple[int, int], count: int) -> list[Window]:
    """Return windows that are spread over an image, or all of it if it is not much larger than they are."""
    height, width = shape
    side = _SAMPLE_SIDE
    if height * width <= 2 * (side * count) ** 2:
        return [Window(0, 0, width, height)]
    rows, columns = (np.linspace(0, max(size - side, 0), count).astype(int).tolist() for size in shape)
    return [Window(x, y, min(side, width), min(side, height)) for y in rows for x in columns]


def ground_pitch(grid: Grid) -> float | None:
    """Return metres from a pixel to the next, the mean of down and across; None if the grid does not tell."""
    if grid.crs is None:
        return None
    t = grid.transform
    across, down = float(np.hypot(t.a, t.d)), float(np.hypot(t.b, t.e))
    if grid.crs.is_projected:
        factor = float(grid.crs.linear_units_factor[1])
        return (across + down) / 2 * factor
    if not grid.crs.is_geographic:
        return None
    (_, south, _, north) = grid.bounds
    return (across * cos(radians((south + north) / 2)) + down) / 2 * _METRES_PER_DEGREE


def mismatch(first: Grid, second: Grid) -> str | None:
    """Tell why two grids do not cover the same ground, in words; None if they do. Pixels may be of different size."""
    if not (first.georeferenced and second.georeferenced):
        ratio = first.height / second.height, first.width / second.width
        return None if ratio[0] == ratio[1] else f"{_size(first)} and {_size(second)} pixels"
    if first.crs != second.crs:
        return f"{_crs(first)} and {_crs(second)}"
    columns, rows = second.to_map([0, second.width, 0, second.width], [0, 0, second.height, second.height])
    corners = np.array([[0, first.width, 0, first.width], [0, 0, first.height, first.height]])
    shift = float(np.abs(first.to_pixel(columns, rows) - corners).max())
    return None if shift < _TOLERANCE_PX else f"corners up to {shift:.3g} pixels apart"


def _size(grid: Grid) -> str:
    return f"{grid.height} x {grid.width}"


def _crs(grid: Grid) -> str:
    return grid.crs.to_string() if grid.crs else "no CRS"
