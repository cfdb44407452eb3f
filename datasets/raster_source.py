"""Pixels of rasters that GDAL reads, NaN for nodata, or in the numbers of the file."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import MaskFlags
from rasterio.io import DatasetReader
from rasterio.windows import Window

from .band_tags import alpha_bands
from .handles import Handles
from .raster import open_raster

_WHOLE = 2**24  # float32 has every whole number below
# Types whose values and nodata survive float32, so that nodata can be told from what was read.
_EXACT_TYPES = ("uint8", "int8", "uint16", "int16", "float32")


_SMALL_TYPES = frozenset(("uint8", "int8", "uint16", "int16"))


@dataclass(frozen=True)
class Stored:
    """How the pixels of some bands are best kept in memory.

    Args:
        dtype: of their numbers.
        nodata: of each band the number that is no data; None if there is none.
    """

    dtype: np.dtype[Any]
    nodata: tuple[int | None, ...]


@dataclass(frozen=True)
class RasterSource:
    """Pixels of a GDAL dataset, which stays open between reads. Safe to send to other processes and to fork."""

    path: str
    masked: tuple[bool, ...]  # per file band: whether it has a nodata value or a mask
    alpha: tuple[int, ...]
    block: tuple[int, int]
    dtypes: tuple[str, ...]  # per file band
    nodata: tuple[float | None, ...]  # per file band: what alone hides its pixels, if that can be told from values read
    handles: Handles = field(default_factory=Handles, repr=False, compare=False)

    @classmethod
    def of(cls, path: str, src: DatasetReader, handles: Handles | None = None) -> "RasterSource":
        """Look at an open dataset of a path."""
        flags = [set(band) for band in src.mask_flag_enums]
        masked = tuple(not {MaskFlags.all_valid, MaskFlags.alpha} & band for band in flags)
        nodata = tuple(
            value if band == {MaskFlags.nodata} and dtype in _EXACT_TYPES else None
            for value, band, dtype in zip(src.nodatavals, flags, src.dtypes, strict=True)
        )
        handles = Handles() if handles is None else handles
        return cls(path, masked, alpha_bands(src), src.block_shapes[0], tuple(src.dtypes), nodata, handles)

    def read(self, bands: Sequence[int], window: Window | None) -> NDArray[np.float32]:
        """Bands (1-based, in the given order) as (C, h, w) float32, NaN where invalid. Scale and offset tags are not applied."""
        return self._read(bands, window, None)

    def decimated(self, bands: Sequence[int], window: Window, shape: tuple[int, int]) -> NDArray[np.float32]:
        """The same brought to (height, width) by nearest neighbour, from overviews if there are any."""
        return self._read(bands, window, shape)

    def _read(self, bands: Sequence[int], window: Window | None, shape: tuple[int, int] | None) -> NDArray[np.float32]:
        with open_raster(self.path, self.handles) as src:
            if shape is None:
                window = window or Window(0, 0, src.width, src.height)
                values = np.empty((len(bands), int(window.height), int(window.width)), np.float32)
                self._by_blocks(src, bands, window, values)
            else:
                values = src.read(list(bands), window=window, out_shape=(len(bands), *shape), out_dtype="float32")
            for pixels, band in zip(values, bands, strict=True):
                if not self.masked[band - 1]:
                    continue
                if (nodata := self.nodata[band - 1]) is None:
                    pixels[src.read_masks(band, window=window, out_shape=shape) == 0] = np.nan
                else:  # not asked of GDAL, which would decode files that hold all bands together once more for each band
                    hidden = _same(pixels, nodata)
                    if hidden.any():
                        pixels[hidden] = np.nan
            for band in self.alpha:  # not left to GDAL, which knows alpha of 8 and 16 bits only
                values[:, src.read(band, window=window, out_shape=shape) == 0] = np.nan
            if any(np.issubdtype(src.dtypes[band - 1], np.floating) for band in bands):
                values[~np.isfinite(values)] = np.nan
        return values

    def stored(self, bands: Sequence[int]) -> Stored | None:
        """Small integers of one type, of which nodata alone hides any."""
        types = {self.dtypes[band - 1] for band in bands}
        hidden = any(self.masked[band - 1] and self.nodata[band - 1] is None for band in bands)
        if len(types) != 1 or hidden or self.alpha or not types <= _SMALL_TYPES:
            return None
        dtype = np.dtype(types.pop())
        info = np.iinfo(dtype)

        def number(value: float | None) -> int | None:  # no pixel is NaN, a fraction or beyond the type
            return int(value) if value is not None and value.is_integer() and info.min <= value <= info.max else None

        return Stored(dtype, tuple(number(self.nodata[band - 1]) for band in bands))

    def read_numbers(self, bands: Sequence[int], window: Window, out: NDArray[Any]) -> None:
        """Read bands (1-based, in the given order) into (C, h, w) of the file's type."""
        with open_raster(self.path, self.handles) as src:
            self._by_blocks(src, bands, window, out)

    def _by_blocks(self, src: DatasetReader, bands: Sequence[int], window: Window, out: NDArray[Any]) -> None:
        """Read a window from left to right, one column of the file's blocks after the other, all bands of it.

        GDAL keeps the blocks that it decoded last. In this order they are those at the window's right end, in which the next
        window of the row begins; left to GDAL, band by band, they would be those of the last bands.
        """
        first, width = int(window.col_off), self.block[1]
        last = first + out.shape[2]
        edges = [first, *range((first // width + 1) * width, last, width), last]
        for left, right in itertools.pairwise(edges):
            part = Window(left, window.row_off, right - left, window.height)
            src.read(list(bands), window=part, out=out[:, :, left - first : right - first])


def _same(pixels: NDArray[np.float32], nodata: float) -> NDArray[np.bool_]:
    """Where nodata is meant: numbers of float32 that are written as text may differ in the last two bits, as GDAL has it."""
    with np.errstate(over="ignore"):
        value = np.float32(nodata)
    # NaN equals nothing here, and is found as what it is; whole numbers are the same in every spelling.
    if not np.isfinite(value) or (value == np.rint(value) and abs(value) < _WHOLE):
        return np.asarray(pixels == value)
    return np.asarray(np.abs(pixels - value) <= 2 * np.spacing(np.abs(value)))


@dataclass(frozen=True)
class Numbers:
    """What the file says of its numbers; information that ``Scene.read`` does not apply.

    Args:
        dtype: of the file.
        marked: whether the file itself knows what is no data.
        scalings: the (scale, offset) that the file tells, each once: value = number * scale + offset. Mostly one or none.
        tags: of the file, keys in lower case.
    """

    dtype: np.dtype[Any]
    marked: bool
    scalings: tuple[tuple[float, float], ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    def scaling(self, where: str) -> tuple[float, float] | None:
        """(scale, offset) of all bands; None if the file tells none.

        Raises:
            ValueError: bands have different ones.
        """
        if len(self.scalings) > 1:
            raise ValueError(f"{where}: bands have different scales and offsets, which is not supported")
        return self.scalings[0] if self.scalings and self.scalings[0] != (1.0, 0.0) else None


def gdal_numbers(src: DatasetReader, source: RasterSource) -> Numbers:
    """What a GDAL dataset says of its numbers."""
    tags = {key.lower(): value for key, value in src.tags().items()}
    scalings = tuple(dict.fromkeys(zip(src.scales, src.offsets, strict=True)))
    return Numbers(np.dtype(src.dtypes[0]), any(source.masked), scalings, tags)
