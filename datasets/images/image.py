"""One picture in memory: pixels, and what its file says beside them."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.rpc import RPC

from ..grid import Grid

PIXEL_TYPES = ("uint8", "uint16", "int16", "float32")

Pixels = NDArray[Any]  # one of PIXEL_TYPES


@dataclass(frozen=True, kw_only=True)
class GeoDetails:
    """What a GeoTIFF says beside pixels, grid and nodata. Tuples have one entry per band of ``Image.pixels``."""

    descriptions: tuple[str | None, ...]
    colors: tuple[str, ...]  # GDAL's colour interpretation: "red", "gray", "undefined", ...
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    units: tuple[str | None, ...]
    tags: dict[str, str] = field(default_factory=dict)
    band_tags: tuple[dict[str, str], ...] = ()
    gcps: tuple[GroundControlPoint, ...] = ()
    gcps_crs: CRS | None = None
    rpcs: RPC | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Image:
    """A picture.

    Args:
        pixels: (H, W, C) uint8, uint16, int16 or float32. C is 1 for grey, 3 for red, green, blue, any number for a GeoTIFF.
        alpha: (H, W) opacity of the same dtype; None where everything is opaque.
        mask: (H, W) bool, true where pixels are valid; None where the file has no mask beside nodata and alpha.
        nodata: Value of pixels that hold nothing; None if there is none.
        grid: Where a GeoTIFF lies; None for plain images.
        geo: What else a GeoTIFF says; None for plain images.
        icc: Colour profile.
        exif: EXIF block as in a JPEG file, "Exif" in front; without orientation, which is applied already.
        format: "PNG", "JPEG", "TIFF", "WEBP", "BMP", "PPM", "GTiff"; "" if it is from no file.
        name: The file, for messages; "image" if it is from none.

    Raises:
        ValueError: shapes or dtypes other than these.
    """

    pixels: Pixels
    alpha: Pixels | None = None
    mask: NDArray[np.bool_] | None = None
    nodata: float | None = None
    grid: Grid | None = None
    geo: GeoDetails | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    format: str = ""
    name: str = "image"

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or 0 in self.pixels.shape:
            raise ValueError(
                f"{self.name}: pixels of shape {self.pixels.shape}, expected (height, width, channels), none of them 0"
            )
        if self.pixels.dtype.name not in PIXEL_TYPES:
            raise ValueError(f"{self.name}: pixels of type {self.pixels.dtype}, expected {', '.join(PIXEL_TYPES)}")
        if self.alpha is not None and (self.alpha.shape, self.alpha.dtype) != (self.shape, self.pixels.dtype):
            raise ValueError(
                f"{self.name}: alpha {self.alpha.shape} {self.alpha.dtype} does not fit pixels {self.shape} {self.pixels.dtype}"
            )
        for what, shape in (
            ("mask", None if self.mask is None else self.mask.shape),
            ("grid", None if self.grid is None else self.grid.shape),
        ):
            if shape not in (None, self.shape):
                raise ValueError(f"{self.name}: {what} {shape} does not fit pixels {self.shape}")

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def channels(self) -> int:
        """Number of bands, alpha not among them."""
        return int(self.pixels.shape[2])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pixels."""
        return self.pixels.dtype

    @property
    def transparent(self) -> bool:
        """Whether there is alpha."""
        return self.alpha is not None

    @property
    def masked(self) -> bool:
        """Whether there is a mask."""
        return self.mask is not None

    def read(self, row: int, column: int, height: int, width: int) -> "Image":
        """Return a window of it, without grid and details; nothing is copied."""
        window = slice(row, row + height), slice(column, column + width)
        return replace(
            self,
            pixels=self.pixels[window],
            alpha=None if self.alpha is None else self.alpha[window],
            mask=None if self.mask is None else self.mask[window],
            grid=None,
            geo=None,
        )

    @property
    def rgb(self) -> tuple[int, int, int] | None:
        """Where red, green and blue are among the bands; a GeoTIFF has them in any order. None if it has no such bands."""
        if self.geo is None:
            return (0, 1, 2) if self.channels == 3 else None
        names = self.geo.colors
        if not {"red", "green", "blue"} <= set(names):
            return None
        return names.index("red"), names.index("green"), names.index("blue")

    @property
    def peak(self) -> float:
        """What full brightness is by the dtype: 255, 65535, 32767, or 1.0 for floats."""
        return peak_of(self.pixels.dtype)


def peak_of(dtype: np.dtype[Any]) -> float:
    """Largest value of an integer type; 1.0 for floats."""
    return 1.0 if dtype.kind == "f" else float(np.iinfo(dtype).max)
