"""Where overlapping windows lie in a volume, how much each counts, and which parts of the volume are open while they go over it.

Windows and weights are those of MONAI's ``sliding_window_inference(mode="gaussian")``: they step by the share of the ROI that is
not overlap, the last one is moved inside, and a volume smaller than the ROI is padded with zeros on both sides.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

_SIGMA = 0.125  # of the ROI
_LEAST = 1e-3  # weight, so that corners count too
_CELLS = 4  # per ROI and axis: no more cells than these, however much windows overlap

Box = tuple[slice, ...]


def importance(roi: Sequence[int]) -> Tensor:
    """Weights of a window's voxels, float32 of that size: a Gaussian around the middle, never less than a thousandth."""
    weights = torch.ones(())
    for size in roi:
        x = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
        weights = weights[..., None] * torch.exp(-(x**2) / (2 * (_SIGMA * size) ** 2))
    return weights.clamp_min(max(float(weights.min()), _LEAST))


@dataclass(frozen=True)
class Axis:
    """Windows along one axis.

    Args:
        size: voxels of the volume.
        roi: voxels of a window.
        overlap: share of a window that the next one covers again, 0 up to but without 1.
    """

    size: int
    roi: int
    overlap: float

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """First voxel of each window; below 0 where the volume is padded."""
        if self.size <= self.roi:
            return (-((self.roi - self.size) // 2),)
        step = max(int(self.roi * (1 - self.overlap)), 1)
        count = math.ceil((self.size - self.roi) / step) + 1
        return tuple(min(index * step, self.size - self.roi) for index in range(count))

    def part(self, window: int) -> slice:
        """Voxels of the volume in a window."""
        start = self.starts[window]
        return slice(max(start, 0), min(start + self.roi, self.size))

    @cached_property
    def edges(self) -> tuple[int, ...]:
        """Where cells begin and end: where windows do, but for those that would make cells very thin."""
        parts = [self.part(window) for window in range(len(self.starts))]
        wanted = sorted({part.start for part in parts} | {part.stop for part in parts})
        kept = [0]
        for edge in wanted[1:-1]:
            if edge - kept[-1] >= self.roi // _CELLS and self.size - edge >= self.roi // _CELLS:
                kept.append(edge)
        return (*kept, self.size)

    @cached_property
    def covering(self) -> tuple[tuple[int, int], ...]:
        """First and last window that has voxels of a cell, for each cell."""
        found = []
        for start, stop in itertools.pairwise(self.edges):
            touching = [window for window in range(len(self.starts)) if _meet(self.part(window), start, stop)]
            found.append((touching[0], touching[-1]))
        return tuple(found)


def _meet(part: slice, start: int, stop: int) -> bool:
    return bool(part.start < stop and start < part.stop)


@dataclass(frozen=True)
class Step:
    """A window: its number on each axis, and the cells that it touches, each with whether it is the last window to do so."""

    window: tuple[int, int, int]
    cells: tuple[tuple[tuple[int, int, int], bool], ...]


@dataclass(frozen=True)
class Route:
    """The order in which windows go over a volume, and the cells into which it is cut.

    A cell is open from the first window on that touches it to the last. Windows go along the axis ``order[2]`` first and along
    ``order[0]`` last, so that a slab across that axis is open at once; where the volume is cut into pieces, across ``order[1]``,
    one is finished before the next begins, and less of it is open; windows across a seam are then computed in both.

    Args:
        axes: the windows of each axis.
        order: of the axes, from slow to fast.
        pieces: parts that are done one after the other, up to the number of cells along ``order[1]``.
    """

    axes: tuple[Axis, Axis, Axis]
    order: tuple[int, int, int]
    pieces: int = 1

    @property
    def most_pieces(self) -> int:
        """Into how many pieces the volume can be cut."""
        return len(self.axes[self.order[1]].covering)

    def steps(self) -> Iterator[Step]:
        """Yield the windows in their order."""
        slow, middle, fast = (self.axes[axis] for axis in self.order)
        cells = [
            [
                [cell for cell, (first, last) in enumerate(axis.covering) if first <= window <= last]
                for window in range(_count(axis))
            ]
            for axis in (slow, middle, fast)
        ]
        for piece in self._pieces():
            first, last = self._windows(piece)
            for window in itertools.product(range(_count(slow)), range(first, last + 1), range(_count(fast))):
                touched = itertools.product(
                    cells[0][window[0]], [cell for cell in cells[1][window[1]] if cell in piece], cells[2][window[2]]
                )
                told = tuple(
                    (
                        self._as_axes(cell),
                        window == (slow.covering[cell[0]][1], middle.covering[cell[1]][1], fast.covering[cell[2]][1]),
                    )
                    for cell in touched
                )
                yield Step(self._as_axes(window), told)

    def __len__(self) -> int:
        """Windows that are computed, those at seams more than once."""
        slow, _, fast = (self.axes[axis] for axis in self.order)
        rows = sum(last - first + 1 for first, last in map(self._windows, self._pieces()))
        return _count(slow) * rows * _count(fast)

    @cached_property
    def open_voxels(self) -> int:
        """Most voxels whose cells are open at once."""
        slow, middle, fast = (self.axes[axis] for axis in self.order)
        most = 0
        for piece in self._pieces():
            first, last = self._windows(piece)
            rows = last - first + 1
            (a0, a1), (c0, c1) = (np.array(axis.covering).T for axis in (slow, fast))
            b0, b1 = np.array(middle.covering)[piece.start : piece.stop].T - first
            lengths = [np.diff(axis.edges) for axis in (slow, middle, fast)]
            sizes = lengths[0][:, None, None] * lengths[1][piece.start : piece.stop][:, None] * lengths[2]

            def when(a: np.ndarray, b: np.ndarray, c: np.ndarray, rows: int = rows) -> np.ndarray:
                return (a[:, None, None] * rows + b[:, None]) * _count(fast) + c

            change = np.zeros(_count(slow) * rows * _count(fast) + 1, np.int64)
            np.add.at(change, when(a0, b0, c0).ravel(), sizes.ravel())
            np.subtract.at(change, when(a1, b1, c1).ravel() + 1, sizes.ravel())
            most = max(most, int(change.cumsum().max()))
        return most

    def cell(self, index: tuple[int, int, int]) -> Box:
        """Voxels of a cell."""
        return tuple(slice(axis.edges[i], axis.edges[i + 1]) for axis, i in zip(self.axes, index, strict=True))

    def part(self, window: tuple[int, int, int]) -> Box:
        """Voxels of the volume in a window."""
        return tuple(axis.part(i) for axis, i in zip(self.axes, window, strict=True))

    def padding(self, window: tuple[int, int, int]) -> tuple[int, ...]:
        """Voxels that a window has before and after those of the volume, in the order of ``torch.nn.functional.pad``."""
        found: list[int] = []
        for axis, i in zip(reversed(self.axes), reversed(window), strict=True):
            before = max(-axis.starts[i], 0)
            part = axis.part(i)
            found += [before, axis.roi - before - (part.stop - part.start)]
        return tuple(found)

    def _pieces(self) -> list[range]:
        cells = self.most_pieces
        bounds = [round(index * cells / self.pieces) for index in range(self.pieces + 1)]
        return [range(*pair) for pair in itertools.pairwise(bounds)]

    def _windows(self, piece: range) -> tuple[int, int]:
        """First and last window along the middle axis that touches cells of a piece."""
        covering = self.axes[self.order[1]].covering
        return covering[piece[0]][0], max(covering[cell][1] for cell in piece)

    def _as_axes(self, index: tuple[int, ...]) -> tuple[int, int, int]:
        found = [0, 0, 0]
        for axis, value in zip(self.order, index, strict=True):
            found[axis] = value
        return found[0], found[1], found[2]


def _count(axis: Axis) -> int:
    return len(axis.starts)


def shortest_route(size: Sequence[int], roi: Sequence[int], overlap: float) -> Route:
    """Return the order of axes for which the least is open at once.

    Args:
        size: of the volume, three axes.
        roi: of a window; of two axes for slices across the last axis.
        overlap: of neighbouring windows, 0 up to but without 1.

    Raises:
        ValueError: for another overlap.
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap is {overlap}, expected 0 or more and less than 1")
    full = (*roi, 1)[:3]
    x, y, z = (Axis(n, r, overlap) for n, r in zip(size, full, strict=True))
    routes = [Route((x, y, z), (a, b, c)) for a, b, c in itertools.permutations(range(3))]
    return min(routes, key=lambda route: route.open_voxels)
