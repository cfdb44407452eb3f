"""Maps a scene of any size part by part, whatever it is that tells what a pixel is."""

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...core.streaming.plan import Area, Part, Plan
from ...core.streaming.run import Finished
from ...datasets import AreaMask, Scene
from ...datasets.classes import map_type
from ...datasets.hectares import row_hectares
from ...datasets.pieces import Piece, PieceReader

MAP, PROBABILITIES = "map", "probabilities"  # layers of a result
_HELD = 4.5  # times what computing takes: what threads have freed, the C library keeps in pieces, for each of them (measured)
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


def part_bytes(side: int, threads: int, cost: Cost, *, width: int, pixel: int, channels: int, halo: int) -> float:
    """What working on parts of a side takes, ``threads`` of them at a time: see ``core.streaming.run`` for how many there are.

    Args:
        side: pixels, without what lies around the part.
        threads: that compute.
        cost: of computing.
        width: pixels of a row of what is mapped, of which the end of each part is kept for the next row of parts.
        pixel: bytes of a pixel as it is read.
        channels: told of each pixel.
        halo: pixels that are looked at on each side.
    """
    seen, kept = (side + 2 * halo) ** 2 * pixel, side**2 * channels * 4.0
    shared = 2 * halo * (width + side) * pixel
    return (threads + 2) * seen + shared + (threads + 4) * kept + threads * _HELD * cost.bytes


def lead_of(cell: int, halo: int) -> int:
    """Return how many pixels before the scene's corner the first cell begins.

    What a cell looks at ends where a multiple of its side does. So parts whose sides are multiples of the file's blocks look at
    pixels that begin ``2 * halo`` before a block and end with one: of these, all but what the part before has read, too, are
    whole blocks.
    """
    return halo % cell


def plan_of(shape: tuple[int, int], area: Area, *, side: int, cell: int, halo: int, multiple: int | None = None) -> Plan:
    """Return the parts of a scene for a ``SceneWorker``, counted from the corner of its first cell.

    Args:
        shape: height and width of the scene.
        area: of it that is worked on.
        side: pixels of parts, a multiple of ``cell`` and of ``multiple``.
        cell: see ``SceneWorker``.
        halo: that the teller looks at.
        multiple: of starts of parts, itself one of ``cell``; default: that. The side of the file's blocks is best.
    """
    lead = lead_of(cell, halo)
    image, moved = (shape[0] + lead, shape[1] + lead), Area(area.row + lead, area.column + lead, area.height, area.width)
    return Plan(image=image, area=moved, side=side, multiple=multiple or cell)


@dataclass(frozen=True, eq=False)
class Seen:
    """What was read of a part: whole cells.

    Args:
        piece: of the scene, with the surroundings of the cells; None if no pixel is asked for.
        asked: which pixels of the cells are asked for.
    """

    piece: Piece | None
    asked: NDArray[np.bool_]


class SceneWorker:
    """Maps parts of a scene, see ``core.streaming.run.Worker``.

    A scene is computed in cells, squares that begin at multiples of their side less ``lead_of``: the same cells whatever of the
    scene is mapped, and in which parts. So a map of a piece is bit for bit a piece of the map. At the scene's right and lower
    edge a cell ends with the window that the edge cuts.

    Args:
        scene: with just the bands that the teller wants.
        teller: what tells classes.
        wanted: what is asked for.
        cell: pixels on a side of a cell, whole windows. Parts are those of ``plan_of``.
        values: of the classes, by their position.
    """

    def __init__(self, scene: Scene, teller: Teller, wanted: Wanted, *, cell: int, values: Sequence[int]) -> None:
        self.scene, self.teller, self.wanted, self.cell = scene, teller, wanted, cell
        self._lead = lead_of(cell, teller.halo)
        self._pieces = PieceReader(scene, 2 * teller.halo)
        place = wanted.area
        grid = scene.grid.part(place.column, place.row, place.width, place.height)
        self._stopped = Event()
        hectares = row_hectares(grid)
        self._hectares = hectares if hectares is not None and np.ptp(hectares) else None
        self.values = np.array([0, *values], dtype=map_type(values))

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
        return Seen(self._pieces.read(top - halo, left - halo, bottom - top + 2 * halo, right - left + 2 * halo), asked)

    def _asked(self, part: Part) -> Area:
        """Return the pixels of a part that lie in the area, in the scene's coordinates."""
        area, lead = self.wanted.area, self._lead
        top, left = max(part.rows.first - lead, area.row), max(part.columns.first - lead, area.column)
        bottom = min(part.rows.last - lead, area.row + area.height)
        right = min(part.columns.last - lead, area.column + area.width)
        return Area(top, left, bottom - top, right - left)

    def _cells(self, part: Part) -> tuple[int, int, int, int]:
        """Return first and last row, and column, of the cells that these touch."""
        area, cell, window, lead = self._asked(part), self.cell, self.teller.window, self._lead
        bounds = []
        for first, pixels, size in zip((area.row, area.column), (area.height, area.width), self.scene.grid.shape, strict=True):
            start, stop = (first + lead) // cell * cell, -(-(first + pixels + lead) // cell) * cell
            bounds += [start - lead, min(stop - lead, -(-size // window) * window)]
        top, bottom, left, right = bounds
        return top, bottom, left, right

    def compute(self, data: Seen, part: Part) -> NDArray[np.float32]:
        """Return (channels, height, width) as the teller gives them; NaN where a pixel is not valid or not asked for."""
        top, bottom, left, right = self._cells(part)
        told = np.full((self.teller.channels, bottom - top, right - left), np.nan, dtype=np.float32)
        if data.piece is not None:
            halo, cell = self.teller.halo, self.cell
            for row in range(0, bottom - top, cell):
                for column in range(0, right - left, cell):
                    if self._stopped.is_set():
                        raise InterruptedError
                    rows, columns = slice(row, min(row + cell, bottom - top)), slice(column, min(column + cell, right - left))
                    height, width = rows.stop - row + 2 * halo, columns.stop - column + 2 * halo
                    looked = data.piece.read(top + row - halo, left + column - halo, height, width)
                    core = looked[:, halo : looked.shape[1] - halo, halo : looked.shape[2] - halo]
                    valid = np.isfinite(core).all(axis=0) & data.asked[rows, columns]
                    if valid.any():
                        told[:, rows, columns] = np.where(valid, self.teller(looked), np.nan)
        area, first, start = self._asked(part), part.rows.first - self._lead, part.columns.first - self._lead
        used = np.full((len(told), part.rows.last - part.rows.first, part.columns.last - part.columns.first), np.nan, np.float32)
        inside = used[:, area.row - first :, area.column - start :][:, : area.height, : area.width]
        inside[:] = told[:, area.row - top :, area.column - left :][:, : area.height, : area.width]
        return used

    def finish(self, values: NDArray[np.float32], area: Area) -> Finished:
        """Return class values, probabilities if asked for, and as facts pixels and summed confidence of each class.

        Where pixels of different rows differ in area hectares are a fact, too.
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
