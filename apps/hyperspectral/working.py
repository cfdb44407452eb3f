"""Maps a scene of any size part by part, whatever it is that tells what a pixel is."""

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...core.streaming.plan import Area, Part
from ...core.streaming.run import Finished
from ...datasets import AreaMask, Scene
from ...datasets.hectares import row_hectares
from .samples import read_padded

MAP, PROBABILITIES = "map", "probabilities"  # layers of a result
LARGEST_SIDE = 1024  # pixels of a part: what parts cost beside their pixels is nothing by then


class Teller(Protocol):
    """Tells what pixels are. It looks ``halo`` pixels, whole windows, beyond those that it tells of."""

    @property
    def channels(self) -> int:
        """Told of each pixel: the position of its class, and how probable that is and the entropy, if it tells that."""
        ...

    @property
    def window(self) -> int:
        """Period of its window grid in pixels."""
        ...

    @property
    def halo(self) -> int:
        """Pixels that it looks at on each side."""
        ...

    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map raw values (bands, height, width) to (channels, height - 2 halo, width - 2 halo); called in several threads.

        What is told of a pixel that is not valid does not matter.
        """
        ...


@dataclass(frozen=True)
class Cost:
    """How a scene is best cut, and what computing takes.

    Args:
        cell: pixels on a side of the squares that are computed at once.
        bytes: of the process, that computing one of them takes.
        largest: pixels on a side of the largest parts that are of use, a multiple of ``cell``.
    """

    cell: int
    bytes: float
    largest: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Wanted:
    """What is asked for.

    Args:
        area: of the scene.
        mask: pixels outside of it are nodata; None if all count.
        probabilities: whether they are a result, beside the classes.
    """

    area: Area
    mask: AreaMask | None = None
    probabilities: bool = False

    @classmethod
    def all_of(cls, scene: Scene, *, probabilities: bool = False) -> "Wanted":
        """The whole scene."""
        return cls(area=Area(0, 0, *scene.grid.shape), probabilities=probabilities)


def part_bytes(side: int, threads: int, cost: Cost, *, bands: int, channels: int, halo: int) -> float:
    """What working on parts of a side takes, ``threads`` of them at a time: see ``core.streaming.run`` for how many there are."""
    seen, kept = (side + 2 * halo) ** 2 * bands * 4.0, side**2 * channels * 4.0
    reading = 1.3  # beside what is read: the same before it is filled up at the scene's edges, and which of it is valid
    return (threads + 2 + reading) * seen + (threads + 4) * kept + threads * cost.bytes


@dataclass(frozen=True, eq=False)
class Seen:
    """What was read of a part: whole cells.

    Args:
        values: raw, (bands, height, width), with the surroundings of the cells; None if no pixel is asked for.
        asked: which pixels of the cells are asked for.
    """

    values: NDArray[np.float32] | None
    asked: NDArray[np.bool_]


class SceneWorker:
    """Maps parts of a scene, see ``core.streaming.run.Worker``.

    A scene is computed in cells, squares that begin at multiples of their side: the same cells whatever of the scene is mapped,
    and in which parts. So a map of a piece is bit for bit a piece of the map. At the scene's right and lower edge a cell ends
    with the window that the edge cuts.

    Args:
        scene: with just the bands that the teller wants.
        teller: what tells classes.
        wanted: what is asked for.
        cell: pixels on a side of a cell, whole windows. Parts begin at multiples of it.
        values: of the classes, by their position.
    """

    def __init__(self, scene: Scene, teller: Teller, wanted: Wanted, *, cell: int, values: Sequence[int]) -> None:
        self.scene, self.teller, self.wanted, self.cell = scene, teller, wanted, cell
        place = wanted.area
        grid = scene.grid.part(place.column, place.row, place.width, place.height)
        self._stopped = Event()
        self._hectares = row_hectares(grid) if grid.crs is not None and grid.crs.is_geographic else None
        self.values = np.array([0, *values], dtype=np.uint8 if max(values) <= np.iinfo(np.uint8).max else np.uint16)

    def stop(self) -> None:
        """Have ``compute`` end with the cell that it is at: a part may take minutes."""
        self._stopped.set()

    def read(self, part: Part) -> Seen:
        """Read all cells that hold pixels that are asked for, with their surroundings."""
        area, (top, bottom, left, right) = self._asked(part), self._cells(part)
        asked = np.zeros((bottom - top, right - left), dtype=np.bool_)
        inside = asked[area.row - top :, area.column - left :][: area.height, : area.width]
        mask = self.wanted.mask
        inside[:] = True if mask is None else mask.read(area.row, area.column, area.height, area.width)
        if not asked.any():
            return Seen(None, asked)
        halo = self.teller.halo
        values = read_padded(self.scene, top - halo, left - halo, bottom - top + 2 * halo, right - left + 2 * halo)
        return Seen(values, asked)

    def _asked(self, part: Part) -> Area:
        """Return the pixels of a part that lie in the area."""
        area = self.wanted.area
        top, left = max(part.rows.first, area.row), max(part.columns.first, area.column)
        bottom, right = min(part.rows.last, area.row + area.height), min(part.columns.last, area.column + area.width)
        return Area(top, left, bottom - top, right - left)

    def _cells(self, part: Part) -> tuple[int, int, int, int]:
        """Return first and last row, and column, of the cells that these touch."""
        area, cell, window = self._asked(part), self.cell, self.teller.window
        bounds = []
        for first, pixels, size in zip((area.row, area.column), (area.height, area.width), self.scene.grid.shape, strict=True):
            bounds += [first // cell * cell, min(-(-(first + pixels) // cell) * cell, -(-size // window) * window)]
        top, bottom, left, right = bounds
        return top, bottom, left, right

    def compute(self, data: Seen, part: Part) -> NDArray[np.float32]:
        """Return (channels, height, width) as the teller gives them; NaN where a pixel is not valid or not asked for."""
        top, bottom, left, right = self._cells(part)
        told = np.full((self.teller.channels, bottom - top, right - left), np.nan, dtype=np.float32)
        if data.values is not None:
            halo, cell = self.teller.halo, self.cell
            for row in range(0, bottom - top, cell):
                for column in range(0, right - left, cell):
                    if self._stopped.is_set():
                        raise InterruptedError
                    rows, columns = slice(row, min(row + cell, bottom - top)), slice(column, min(column + cell, right - left))
                    looked = data.values[:, row : rows.stop + 2 * halo, column : columns.stop + 2 * halo]
                    core = looked[:, halo : looked.shape[1] - halo, halo : looked.shape[2] - halo]
                    valid = np.isfinite(core).all(axis=0) & data.asked[rows, columns]
                    if valid.any():
                        told[:, rows, columns] = np.where(valid, self.teller(looked), np.nan)
        area = self._asked(part)
        used = np.full((len(told), part.rows.last - part.rows.first, part.columns.last - part.columns.first), np.nan, np.float32)
        inside = used[:, area.row - part.rows.first :, area.column - part.columns.first :][:, : area.height, : area.width]
        inside[:] = told[:, area.row - top :, area.column - left :][:, : area.height, : area.width]
        return used

    def finish(self, values: NDArray[np.float32], area: Area) -> Finished:
        """Return class values, probabilities if asked for, and as facts pixels and summed confidence of each class.

        Where the CRS is geographic hectares are a fact, too: pixels of different rows differ in area.
        """
        valid = np.isfinite(values[0])
        index = np.where(valid, values[0], -1).astype(np.int64)
        found, classes = index[valid], len(self.values) - 1
        arrays: dict[str, NDArray[Any]] = {MAP: self.values[index + 1][None]}
        facts: dict[str, list[float]] = {"pixels": np.bincount(found, minlength=classes).tolist()}
        if self._hectares is not None:
            weights = np.broadcast_to(self._hectares[area.row : area.row + area.height, None], valid.shape)[valid]
            facts["hectares"] = np.bincount(found, weights=weights, minlength=classes).tolist()
        if len(values) > 1:
            weights = values[1][valid].astype(np.float64)
            facts["confidence"] = np.bincount(found, weights=weights, minlength=classes).tolist()
        if self.wanted.probabilities:
            arrays[PROBABILITIES] = values[1:]
        return Finished(arrays, facts)
