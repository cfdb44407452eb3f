"""Pieces of a scene in memory, in the numbers of its file, of which no pixel is read twice."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from .scene import Scene


@dataclass(frozen=True, eq=False)
class Piece:
    """A rectangle of a scene, which takes half or a quarter of the memory of its float32 where the file holds small integers.

    Args:
        row, column: of its first pixel in the scene.
        numbers: (bands, height, width), as the file has them.
        nodata: the number of each band that is no data, or None if it has none; float32 numbers are NaN there.
    """

    row: int
    column: int
    numbers: NDArray[Any]
    nodata: tuple[int | None, ...]

    def read(self, row: int, column: int, height: int, width: int) -> NDArray[np.float32]:
        """Return any rectangle of the scene as (bands, height, width); what is no data or not in the piece is NaN."""
        top, left = max(row - self.row, 0), max(column - self.column, 0)
        numbers = self.numbers[:, top : max(row + height - self.row, 0), left : max(column + width - self.column, 0)]
        values = numbers.astype(np.float32)
        if len(set(self.nodata)) == 1:  # as in most files: asked of all bands at once
            _hide(values, numbers, self.nodata[0])
        else:
            for band, nodata in enumerate(self.nodata):
                _hide(values[band], numbers[band], nodata)
        if values.shape[1:] == (height, width):
            return values
        whole = np.full((len(values), height, width), np.nan, np.float32)
        top, left = max(self.row - row, 0), max(self.column - column, 0)
        whole[:, top : top + values.shape[1], left : left + values.shape[2]] = values
        return whole


def _hide(values: NDArray[np.float32], numbers: NDArray[Any], nodata: int | None) -> None:
    if nodata is not None and (hidden := numbers == nodata).any():
        values[hidden] = np.nan


@dataclass(frozen=True, eq=False)
class _Strip:
    """Numbers (bands, height, width) at the lower or right end of a piece; ``row`` and ``column`` are those of the first."""

    row: int
    column: int
    numbers: NDArray[Any]


class PieceReader:
    """Reads pieces that share ``overlap`` pixels with their neighbours, best in raster order.

    What a piece shares with the next, and with the one below, is kept: files are decoded block by block, and where pieces end
    ``overlap`` pixels after a block begins, the blocks there would be decoded twice for these few. Pieces come out the same in
    any order; for one thread at a time.

    Args:
        scene: to read.
        overlap: pixels.
    """

    def __init__(self, scene: Scene, overlap: int) -> None:
        self.scene, self.overlap = scene, overlap
        self._right: _Strip | None = None
        self._below: dict[tuple[int, int], _Strip] = {}  # by first and last column

    def read(self, row: int, column: int, height: int, width: int) -> Piece:
        """Read what of a rectangle lies in the scene.

        Raises:
            ValueError: nothing of it does, or the file turns out damaged.
        """
        (top, bottom), (left, right) = (
            (max(first, 0), min(first + pixels, size))
            for first, pixels, size in zip((row, column), (height, width), self.scene.grid.shape, strict=True)
        )
        shape = bottom - top, right - left
        numbers = np.empty((self.scene.num_bands, *shape), self.scene.stored.dtype)
        above, beside = self._below.pop((left, right), None), self._right
        down = across = 0
        if above is not None and above.row == top and above.numbers.shape[1] <= shape[0]:
            down = above.numbers.shape[1]
            numbers[:, :down] = above.numbers
        if beside is not None and (beside.row, beside.column) == (top, left) and beside.numbers.shape[1] == shape[0]:
            across = min(beside.numbers.shape[2], shape[1])
            numbers[:, :, :across] = beside.numbers[:, :, :across]
        if down < shape[0] and across < shape[1]:
            window = Window(left + across, top + down, shape[1] - across, shape[0] - down)
            self.scene.read_numbers(window, numbers[:, down:, across:])
        keep = self.overlap
        if keep and keep < min(shape):
            self._below[left, right] = _Strip(bottom - keep, left, numbers[:, -keep:].copy())
            self._right = _Strip(top, right - keep, numbers[:, :, -keep:].copy())
        return Piece(top, left, numbers, self.scene.stored.nodata)
