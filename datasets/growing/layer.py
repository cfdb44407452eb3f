"""One raster of a result: what it is to be, the plain file that it grows in, and the Cloud Optimized GeoTIFF in the end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..grid import Grid

LayerType = Literal["uint8", "int8", "uint16", "int16", "float16", "float32"]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What a raster is to be.

    Args:
        path: where it is to appear.
        grid: of the raster.
        bands: number of bands.
        dtype: of the values. float16 is written as TIFF has it in every GDAL, as Float32 of 16 bits.
        nodata: the value of pixels without data; what is not written yet holds it, too. None: every pixel is data.
        descriptions: one for each band, or none.
        colors: of values, for classes: red, green, blue, alpha.
        names: of values, for classes.
        scales: of each band, as GDAL means them: what is stored, times the scale, is the value.
        tags: of the file.
        overviews: how pixels are made fewer for overviews: nearest for classes.
    """

    path: Path
    grid: Grid
    bands: int
    dtype: LayerType
    nodata: float | None = None
    descriptions: Sequence[str] = ()
    colors: Mapping[int, tuple[int, int, int, int]] | None = None
    names: Mapping[int, str] | None = None
    scales: Sequence[float] | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    overviews: Literal["nearest", "average"] = "nearest"


class GrowingRaster:
    """The plain file of a layer: BigTIFF, tiled, not compressed, every tile in its place from the start.

    Writing pixels changes no byte but theirs, so that a kill at any time leaves a file that can be read, in which the pixels that
    were written are. The disk space is taken when the file is made: a full disk is noticed then.
    """

    def __init__(self, file: Path, layer: Layer) -> None:
        raise NotImplementedError

    def write(self, values: NDArray[Any], row: int, column: int) -> None:
        """Write (bands, height, width) with its first pixel at ``row`` and ``column``, of any size."""
        raise NotImplementedError

    def sync(self) -> None:
        """Return when what was written will survive a loss of power."""
        raise NotImplementedError

    def read(self, row: int, column: int, height: int, width: int) -> NDArray[np.float32]:
        """Read (bands, height, width)."""
        raise NotImplementedError

    def translate(self, target: Path) -> None:
        """Write the Cloud Optimized GeoTIFF; its bytes depend on pixels and layer alone."""
        raise NotImplementedError
