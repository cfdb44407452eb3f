"""Labelled cells of places: what probes are trained on and tested with."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_cdt

Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Cells:
    """Square cells of some places, one after the other.

    Args:
        targets: (cells,), position in ``classes``; -1 where there is no label, or none that is pure.
        classes: names.
        places: names.
        shapes: rows and columns of the cells of each place.
    """

    targets: Indices
    classes: tuple[str, ...]
    places: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]

    def without(self, lost: Mask) -> "Cells":
        """Return the cells with no label where ``lost``."""
        return replace(self, targets=np.where(lost, -1, self.targets))

    @property
    def place(self) -> Indices:
        """Which place each cell is of."""
        return np.repeat(np.arange(len(self.shapes)), [rows * columns for rows, columns in self.shapes])

    def blocks(self, side: int) -> Indices:
        """Number square blocks of so many cells a side, over all places: which block each cell is of."""
        found, first = [], 0
        for rows, columns in self.shapes:
            row, column = np.divmod(np.arange(rows * columns), columns)
            across = -(-columns // side)
            found.append(first + row // side * across + column // side)
            first += -(-rows // side) * across
        return np.concatenate(found)

    def near(self, chosen: Mask, buffer: int) -> Mask:
        """Return which cells lie within ``buffer`` rows and columns of a chosen one, of the same place."""
        found, first = [], 0
        for rows, columns in self.shapes:
            part = chosen[first : first + rows * columns].reshape(rows, columns)
            first += part.size
            distance = distance_transform_cdt(~part, metric="chessboard") if part.any() else np.full(part.shape, buffer + 1)
            found.append((distance <= buffer).ravel())
        return np.concatenate(found)


@dataclass(frozen=True, eq=False)
class Fold:
    """Which cells train and which test; cells in neither are left out.

    Args:
        training, test: of cells with labels.
        unseen: names of classes in the tested area that no training cell has: those cells do not test.
    """

    training: Mask
    test: Mask
    unseen: tuple[str, ...]


def majority(labels: NDArray[np.integer], cell: int, purity: float) -> Indices:
    """Return the most frequent label of each cell (rows, columns), 0 where it has less than ``purity`` of the pixels.

    Pixels without label (0) count as others. Rows and columns of pixels beyond the last whole cell are left out.
    """
    height, width = (side // cell for side in labels.shape)
    parts = labels[: height * cell, : width * cell].reshape(height, cell, width, cell)
    values = np.setdiff1d(np.unique(parts), [0])
    if not len(values):
        return np.zeros((height, width), dtype=np.int64)
    shares = np.stack([(parts == value).mean(axis=(1, 3)) for value in values])
    return np.where(shares.max(axis=0) >= purity, values[shares.argmax(axis=0)], 0).astype(np.int64)


def gather(
    labels: Sequence[NDArray[np.integer]], places: Sequence[str], names: Mapping[int, str], *, cell: int, purity: float
) -> Cells:
    """Cut label maps into cells.

    Args:
        labels: of each place, (height, width), 0 for none.
        places: their names.
        names: of classes, by label; others are named by their number.
        cell: pixels on a side.
        purity: share of the most frequent class from which a cell counts.

    Raises:
        ValueError: fewer than two classes.
    """
    found = [majority(part, cell, purity) for part in labels]
    values = np.setdiff1d(np.unique(np.concatenate([part.ravel() for part in found])), [0])
    if len(values) < 2:
        pure = f"cells of {cell} x {cell} pixels with {purity:.0%} of one class"
        raise ValueError(f"{pure}: {len(values)} classes, expected two or more")
    targets = np.concatenate([np.where(part > 0, np.searchsorted(values, part), -1).ravel() for part in found])
    shapes = tuple((part.shape[0], part.shape[1]) for part in found)
    return Cells(targets, tuple(names.get(int(v), f"class {v}") for v in values), tuple(places), shapes)


def across_places(cells: Cells) -> Iterator[Fold]:
    """Leave one place out after the other: all others train. Places without a class that the others have do not test."""
    place = cells.place
    for number in range(len(cells.places)):
        fold = _fold(cells, place == number, place != number)
        if fold is not None:
            yield fold


def within_places(cells: Cells, *, folds: int, block: int, buffer: int, seed: int) -> Iterator[Fold]:
    """In each place by itself, some blocks test and the others train, but for cells within the buffer of a tested block.

    Args:
        cells: of places; those with a single class take no part.
        folds: each block tests in one of them, drawn at random.
        block: cells on a side.
        buffer: cells.
        seed: of the draw.
    """
    random = np.random.default_rng(seed)
    of_cell = cells.blocks(block)
    place = cells.place
    for number in range(len(cells.places)):
        inside = place == number
        own = np.unique(of_cell[inside])
        drawn = random.permutation(len(own)) % folds  # drawn for every place, so that one without labels changes no other
        if len(np.setdiff1d(cells.targets[inside], [-1])) < 2:
            continue
        for fold in range(folds):
            area = np.isin(of_cell, own[drawn == fold])
            found = _fold(cells, area, inside & ~cells.near(area, buffer))
            if found is not None:
                yield found


def _fold(cells: Cells, area: Mask, rest: Mask) -> Fold | None:
    labelled = cells.targets >= 0
    training, test = rest & labelled, area & labelled
    known = np.unique(cells.targets[training])
    present = np.unique(cells.targets[test])
    unseen = np.setdiff1d(present, known)
    test &= np.isin(cells.targets, known)
    if len(known) < 2 or not test.any():
        return None
    return Fold(training, test, tuple(cells.classes[k] for k in unseen))
