"""Rings from edges that know which edge follows: all of them at once, in arrays."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_AT_ONCE = 2**18  # points

Indices = NDArray[np.int32]
Points = NDArray[np.int32]  # (points, 2): column and row of pixel corners


@dataclass(frozen=True, eq=False)
class Sequences:
    """Nodes in the order in which they follow each other, one sequence after the other.

    Args:
        order: the nodes, (nodes,).
        offsets: where each sequence begins in ``order``, and its length at the end, (sequences + 1,).
        closed: whether the last of a sequence is followed by its first, (sequences,).
    """

    order: Indices
    offsets: NDArray[np.int64]
    closed: NDArray[np.bool_]


def sequences(following: Indices) -> Sequences:
    """Sort nodes into rings and paths.

    Args:
        following: node that follows each node, (nodes,); -1 where none does. No node follows two.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, connected_components

    count = len(following)
    if not count:
        return Sequences(following, np.zeros(1, np.int64), np.zeros(0, np.bool_))
    parts, part = connected_components(_graph(csr_array, following), directed=False)
    before = np.full(count, -1, np.int32)
    followed = np.flatnonzero(following >= 0).astype(np.int32)
    before[following[followed]] = followed
    heads, tails = np.flatnonzero(before < 0), np.flatnonzero(following < 0)
    first, last, closed = np.empty(parts, np.int32), np.empty(parts, np.int32), np.ones(parts, np.bool_)
    first[part[::-1]] = np.arange(count, dtype=np.int32)[::-1]  # of several the one that is assigned last stays: the smallest
    closed[part[heads]] = False
    first[part[heads]] = heads
    last[:] = before[first]
    last[part[tails]] = tails
    # As one long path, which a search in C walks along: each sequence is followed by the next.
    linked = following.copy()
    linked[last] = np.append(first[1:], -1)
    order = breadth_first_order(_graph(csr_array, linked), int(first[0]), return_predecessors=False)
    return Sequences(order.astype(np.int32), np.append(0, np.cumsum(np.bincount(part, minlength=parts))), closed)


def _graph(csr_array: type, following: Indices) -> object:
    known = following >= 0
    starts = np.append(0, np.cumsum(known)).astype(np.int32)
    return csr_array((np.ones(starts[-1]), following[known], starts), shape=(len(following), len(following)))


def split_touching(points: Points, offsets: NDArray[np.int64]) -> tuple[Points, NDArray[np.int64], NDArray[np.int64]]:
    """Split rings that pass a point twice into rings that touch there: into what valid polygons are made of.

    Args:
        points: of all rings, one after the other, (points, 2).
        offsets: where each begins, and the number of points, (rings + 1,).

    Returns:
        Points and offsets of the new rings, and the ring that each was a part of.
    """
    lengths = np.diff(offsets)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((points[:, 0], points[:, 1], owner))
    same = (owner[order][1:] == owner[order][:-1]) & (points[order][1:] == points[order][:-1]).all(axis=1)
    if not same.any():
        return points, offsets, np.arange(len(lengths))
    one, other = order[:-1][same], order[1:][same]
    target = np.arange(len(points), dtype=np.int32)
    target[one], target[other] = other, one
    following = np.arange(1, len(points) + 1, dtype=np.int32)
    following[offsets[1:] - 1] = offsets[:-1]
    found = sequences(target[following])
    return points[found.order], found.offsets, owner[found.order[found.offsets[:-1]]]


def twice_areas(points: Points, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return twice the area in pixels of each ring: positive for outer rings, negative for holes."""
    if not len(points):
        return np.zeros(0, np.int64)
    x, y = points.T.astype(np.int64)
    following = np.arange(1, len(points) + 1)
    following[offsets[1:] - 1] = offsets[:-1]
    return np.asarray(np.add.reduceat(x * y[following] - x[following] * y, offsets[:-1]))


def rearranged(points: Points, offsets: NDArray[np.int64], order: NDArray[np.int64]) -> tuple[Points, NDArray[np.int64]]:
    """Return rings in another order."""
    ends = np.append(0, np.cumsum(np.diff(offsets)[order]))
    shift = offsets[:-1][order] - ends[:-1]
    moved = np.empty((ends[-1], 2), np.int32)
    for first in range(0, len(moved), _AT_ONCE):  # a large polygon is held twice here, and nothing beside it
        number = np.arange(first, min(first + _AT_ONCE, len(moved)))
        moved[first : first + len(number)] = points[number + shift[np.searchsorted(ends, number, side="right") - 1]]
    return moved, ends
