"""One raster of a result: what it is to be."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..grid import Grid
from ..images.image import GeoDetails

LayerType = Literal["uint8", "int8", "uint16", "int16", "float16", "float32"]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What a raster is to be.

    Args:
        path: where it is to appear. None: it is kept while the run goes on, for other layers and files.
        grid: of the raster.
        bands: number of bands.
        dtype: of the values. float16 is Float32 in the file, of values that were rounded to 16 bits.
        nodata: the value of pixels without data; what is not written yet holds it, too. None: every pixel is data.
        descriptions: one for each band, or none.
        colors: of values, for classes: red, green, blue, alpha.
        names: of values, for classes.
        scales: of each band, as GDAL means them: what is stored, times the scale, is the value.
        tags: of the file.
        overviews: how pixels are made fewer for overviews: nearest for classes.
        interpretations: of each band, as GDAL names them: red, green, blue, gray, alpha, ...; or none.
        details: what the GeoTIFF says that this is made of, in place of descriptions, scales, tags and interpretations; bands
            more than those are alpha.
        icc: colour profile.
        mask: name of the layer that is its mask, as ``mask_of`` makes it.

    Raises:
        ValueError: not one description, scale or interpretation per band.
    """

    path: Path | None
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
    interpretations: Sequence[str] = ()
    details: GeoDetails | None = None
    icc: bytes | None = None
    mask: str | None = None

    def __post_init__(self) -> None:
        told = {"descriptions": self.descriptions, "scales": self.scales, "interpretations": self.interpretations}
        for what, values in told.items():
            if values and len(values) != self.bands:
                raise ValueError(f"{self.path}: {self.bands} bands with {len(values)} {what}")

    @property
    def stored(self) -> np.dtype[Any]:
        """Type of the numbers in the file, byte by byte."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def profile(self) -> dict[str, Any]:
        """What GDAL is told when it makes a file of this layer."""
        half = {"nbits": 16} if self.dtype == "float16" else {}
        return {
            "count": self.bands, "height": self.grid.height, "width": self.grid.width,
            "dtype": "float32" if half else self.dtype, "crs": self.grid.crs, "transform": self.grid.transform,
            "nodata": self.nodata,
        } | half  # fmt: skip

    def fitted(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values as they are stored; of NaN and 0, which have several bit patterns, in one."""
        values = np.ascontiguousarray(values, dtype=self.stored)
        return np.where(np.isnan(values), values.dtype.type(np.nan), values) + 0 if values.dtype.kind == "f" else values

    def described(self) -> dict[str, Any]:
        """Return all that decides the file beside its pixels and its name, as JSON has it."""
        grid = self.grid
        return {
            "bands": self.bands, "dtype": self.dtype, "height": grid.height, "width": grid.width,
            "crs": None if grid.crs is None else grid.crs.to_wkt(), "transform": list(grid.transform)[:6], "nodata": self.nodata,
            "descriptions": list(self.descriptions), "scales": None if self.scales is None else list(self.scales),
            "colors": None if self.colors is None else {str(value): list(color) for value, color in self.colors.items()},
            "names": None if self.names is None else {str(value): name for value, name in self.names.items()},
            "tags": dict(self.tags), "overviews": self.overviews, "interpretations": list(self.interpretations),
        } | self._beside()  # fmt: skip

    def _beside(self) -> dict[str, Any]:
        told = {"details": repr(self.details).encode() if self.details else None, "icc": self.icc}
        digests = {name: hashlib.sha256(value).hexdigest() for name, value in told.items() if value is not None}
        return digests | ({} if self.mask is None else {"mask": self.mask})


def mask_of(layer: Layer) -> Layer:
    """Return the layer that is the mask of another: one band, 255 where pixels are valid, 0 where they are hidden."""
    # So GDAL knows a file NAME.msk for the mask of all bands of NAME.
    flags = {f"INTERNAL_MASK_FLAGS_{band}": "2" for band in range(1, layer.bands + 1)}
    return Layer(path=None, grid=layer.grid, bands=1, dtype="uint8", tags=flags)
