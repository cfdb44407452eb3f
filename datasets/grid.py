"""Where the pixels of a raster lie."""

from dataclasses import dataclass

import numpy as np
from affine import Affine
from numpy.typing import ArrayLike, NDArray
from rasterio.crs import CRS
from rasterio.io import DatasetReader

# Products of one tile differ by rounding of the origin (1e-10 of a pixel is common); a real shift is a large part of a pixel.
_TOLERANCE_PX = 1e-6


Box = tuple[float, float, float, float]  # left, bottom, right, top


@dataclass(frozen=True)
class Grid:
    """Size, coordinate reference system (None if unknown) and pixel-to-map transform of a raster."""

    height: int
    width: int
    crs: CRS | None
    transform: Affine

    @classmethod
    def of(cls, src: DatasetReader) -> "Grid":
        """Grid of an open rasterio dataset."""
        return cls(src.height, src.width, src.crs, src.transform)

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def georeferenced(self) -> bool:
        """Whether anything is known about the position: a CRS or a transform other than identity."""
        return self.crs is not None or not self.transform.almost_equals(Affine.identity())

    def to_map(self, columns: ArrayLike, rows: ArrayLike) -> NDArray[np.float64]:
        """Map coordinates (2, ...) of pixel coordinates; (0, 0) is the outer corner of the first pixel."""
        return _apply(self.transform, columns, rows)

    def to_pixel(self, xs: ArrayLike, ys: ArrayLike) -> NDArray[np.float64]:
        """Pixel coordinates (2, ...), columns first, of map coordinates."""
        return _apply(~self.transform, xs, ys)

    def part(self, column: int, row: int, width: int, height: int) -> "Grid":
        """The grid of a window, which may reach outside."""
        x, y = self.to_map(column, row).tolist()
        t = self.transform
        return Grid(height, width, self.crs, Affine(t.a, t.b, x, t.d, t.e, y))

    def resized(self, height: int, width: int) -> "Grid":
        """The grid of the same area in other pixels: same CRS and corners, pixel size as it follows."""
        down, across = self.height / height, self.width / width
        t = self.transform
        return Grid(height, width, self.crs, Affine(t.a * across, t.b * down, t.c, t.d * across, t.e * down, t.f))

    def scaled(self, factor: float) -> "Grid":
        """The grid of the same area with ``factor`` times as many pixels a side, rounded to whole pixels.

        Raises:
            ValueError: a factor that is not positive.
        """
        if not factor > 0:
            raise ValueError(f"scale {factor}: expected a positive number")
        return self.resized(max(1, round(self.height * factor)), max(1, round(self.width * factor)))

    @property
    def bounds(self) -> Box:
        """(left, bottom, right, top) of the box around the grid, which may be rotated."""
        xs, ys = self.to_map(*self._corners())
        return float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max())

    def _corners(self) -> tuple[list[int], list[int]]:
        return [0, self.width, 0, self.width], [0, 0, self.height, self.height]

    def matches(self, other: "Grid") -> bool:
        """Whether pixel (i, j) means the same place in both.

        A grid without any georeference (a MATLAB array, say) matches every grid of its shape.
        """
        if self.shape != other.shape:
            return False
        if not (self.georeferenced and other.georeferenced):
            return True
        corners = self._corners()
        shift = self.to_pixel(*other.to_map(*corners)) - np.asarray(corners)
        return self.crs == other.crs and bool(np.abs(shift).max() < _TOLERANCE_PX)

    def require_overlap(self, box: Box, name: str, what: str = "labels") -> None:
        """Raise a ValueError that shows both boxes if what lies in ``box`` (in the grid's CRS) lies elsewhere."""
        ours = self.bounds
        if not (box[0] <= ours[2] and box[2] >= ours[0] and box[1] <= ours[3] and box[3] >= ours[1]):
            theirs, own = ("(" + ", ".join(f"{x:.8g}" for x in b) + ")" for b in (box, ours))
            crs = self.crs.to_string() if self.crs else "map units"
            degrees = self.crs is not None and self.crs.is_projected and max(map(abs, box)) <= 360
            hint = "; these look like degrees" if degrees else ""
            raise ValueError(
                f"{name}: no overlap of {what} in {theirs} with the scene in {own} (left, bottom, right, top; {crs}){hint}"
            )


def _apply(t: Affine, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    # Written out: affine's operator for this changed its spelling between its versions 2 and 3.
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    return np.stack([t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f])
