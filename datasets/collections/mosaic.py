"""Bands of an image that lie in files of their own, of different pixel sizes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.windows import Window

from ..grid import Grid
from ..raster import open_raster


@dataclass(frozen=True)
class BandFile:
    """A band of a file.

    Args:
        path: what GDAL reads; remote files too.
        band: counted from 1.
        shape: (height, width) of the file.
        nodata: number for no data, where only the catalogue tells it.
    """

    path: str
    band: int
    shape: tuple[int, int]
    nodata: float | None = None


@dataclass(frozen=True)
class BandFiles:
    """Bands of one grid, those of larger pixels repeated: values are not mixed, so that nothing bleeds from invalid pixels.

    Args:
        files: one for each band.
        grid: the finest.
    """

    files: tuple[BandFile, ...]
    grid: Grid

    def read(self, bands: Sequence[int], window: Window | None) -> NDArray[np.float32]:
        """Bands (counted from 1) as (bands, height, width), NaN where there is no data."""
        window = window or Window(0, 0, self.grid.width, self.grid.height)
        size = int(window.height), int(window.width)
        return np.stack([_read(self.files[band - 1], window, size, self.grid.shape) for band in bands])


def _read(file: BandFile, window: Window, size: tuple[int, int], whole: tuple[int, int]) -> NDArray[np.float32]:
    down, across = file.shape[0] / whole[0], file.shape[1] / whole[1]
    own = Window(window.col_off * across, window.row_off * down, window.width * across, window.height * down)
    with open_raster(file.path) as src:
        args = {"window": own, "out_shape": size, "resampling": Resampling.nearest}
        values: NDArray[np.float32] = src.read(file.band, out_dtype="float32", **args)
        hidden = src.read_masks(file.band, **args) == 0
    if file.nodata is not None:
        hidden |= values == file.nodata
    values[hidden | ~np.isfinite(values)] = np.nan
    return values
