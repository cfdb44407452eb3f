"""Linear resampling along the axes of a grid, one after the other: quick, and lean in memory.

Turning and new spacing keep axes parallel, so that a position on one axis depends on that axis alone: three passes with two
voxels each do what eight at once would do, and only slabs are copied.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SLAB_VOXELS = 2_000_000
_LABEL_VOXELS = 500_000  # of a slab of labels: each of them may take a hundred bytes
_BLOCK = 48  # new voxels that share a block of weights
_TABLE = 65536  # values that a table is made for
_TIE = 1e-5  # difference of shares that is rounding
_EXACT = 1e-3  # of a voxel, by which a position may miss a voxel's centre and still be meant to be it


@dataclass(frozen=True)
class Line:
    """Where the voxels of a new axis lie on an old one.

    Args:
        size: of the old axis.
        positions: (new size,) in voxels of the old axis, inside it.
        width: in old voxels, over which interpolated values are averaged; 0 for none.
    """

    size: int
    positions: NDArray[np.float64]
    width: float = 0.0

    @property
    def nearest(self) -> NDArray[np.intp]:
        """Index of the nearest old voxel; of two, the lower one."""
        return np.ceil(self.positions - 0.5 - 1e-9).clip(0, self.size - 1).astype(np.intp)

    @property
    def exact(self) -> bool:
        """Whether every new voxel is an old one."""
        return not self.width and bool(np.abs(self.positions - self.nearest).max(initial=0) < _EXACT)

    def taps(self) -> tuple[Tensor, Tensor]:
        """Indices and weights, (taps, new size) each, whose sums over taps are 1. Beyond the ends, the last voxels go on."""
        half = self.width / 2
        index = np.floor(self.positions - half) + np.arange(int(np.ceil(self.width)) + 2)[:, None]
        if self.width:
            weight = (_hat_integral(self.positions + half - index) - _hat_integral(self.positions - half - index)) / self.width
        else:
            weight = np.maximum(1 - np.abs(index - self.positions), 0)
        return torch.from_numpy(index.clip(0, self.size - 1).astype(np.int64)), torch.from_numpy(weight.astype(np.float32))


def _hat_integral(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The integral up to x of what linear interpolation makes of a single voxel of 1 at 0."""
    x = x.clip(-1, 1)
    return np.where(x < 0, (x + 1) ** 2, 2 - (1 - x) ** 2) / 2


def line(old: int, new: int, *, scale: float, offset: float = 0.0, antialias: bool = False) -> Line:
    """Return where ``new`` voxels lie on an axis of ``old`` ones: at ``scale * index + offset``, or at its nearer end.

    A voxel is about the mean over its extent: one of r old ones has a variance of r**2 / 12, so that (r**2 - 1) / 12 is to be
    added, which is that of a mean over sqrt(r**2 - 1). It begins with none at r = 1, and leaves linear courses what they are.
    """
    positions = (scale * np.arange(new) + offset).clip(0, old - 1)
    return Line(old, positions, max(scale**2 - 1, 0.0) ** 0.5 if antialias else 0.0)


def resample(x_XYZ: NDArray[Any], lines: Sequence[Line], out: NDArray[np.float32]) -> None:
    """Resample an array of any dtype and strides along its three axes into ``out``.

    Voxels are copied, bit for bit in float32, along axes on which every new voxel is an old one.
    """
    for axis, on in enumerate(lines):
        if on.exact:
            x_XYZ = _picked(x_XYZ, axis, on)
    # First what shrinks most: the passes that follow have less to do.
    rest = [axis for axis, on in enumerate(lines) if not on.exact]
    rest.sort(key=lambda axis: len(lines[axis].positions) / lines[axis].size)
    for axis in rest:
        shape = [len(lines[axis].positions) if a == axis else n for a, n in enumerate(x_XYZ.shape)]
        into = out if axis == rest[-1] else np.empty(shape, np.float32)
        _along(x_XYZ, axis, lines[axis], into)
        x_XYZ = into
    if not rest:
        out[...] = x_XYZ


def _picked(x: NDArray[Any], axis: int, on: Line) -> NDArray[Any]:
    """Old voxels on one axis: all of them in either direction are a view."""
    every = np.arange(on.size)
    if np.array_equal(on.nearest, every):
        return x
    if np.array_equal(on.nearest, every[::-1]):
        return np.flip(x, axis)
    return np.take(x, on.nearest, axis=axis)


def _along(x: NDArray[Any], axis: int, on: Line, out: NDArray[np.float32]) -> None:
    index, weight = on.taps()
    if axis == 2:
        _along_last(x, index, weight, out)
        return
    across = 1 if axis == 0 else 0
    weight = weight.reshape(len(weight), *(-1 if a == axis else 1 for a in range(3)))
    step = max(1, _SLAB_VOXELS // max(1, max(x.size, out.size) // x.shape[across]))
    for begin in range(0, x.shape[across], step):
        slab = (slice(None),) * across + (slice(begin, begin + step),)
        part = torch.from_numpy(np.ascontiguousarray(x[slab], dtype=np.float32))
        into = torch.from_numpy(out[slab])
        torch.mul(part.index_select(axis, index[0]), weight[0], out=into)
        for i, w in zip(index[1:], weight[1:], strict=True):
            into.addcmul_(part.index_select(axis, i), w)


def _along_last(x: NDArray[Any], index: Tensor, weight: Tensor, out: NDArray[np.float32]) -> None:
    """The same on the last axis, on which neighbours lie side by side: products with blocks of the band matrix of weights."""
    blocks = []
    for begin in range(0, index.shape[1], _BLOCK):
        i, w = index[:, begin : begin + _BLOCK], weight[:, begin : begin + _BLOCK]
        low, high = int(i.min()), int(i.max()) + 1
        matrix = torch.zeros(high - low, i.shape[1]).scatter_add_(0, i - low, w)
        blocks.append((slice(low, high), slice(begin, begin + _BLOCK), matrix))
    step = max(1, _SLAB_VOXELS // max(1, x.size // len(x), out.size // len(out)))
    for begin in range(0, len(x), step):
        part = torch.from_numpy(np.ascontiguousarray(x[begin : begin + step], dtype=np.float32))
        into = torch.from_numpy(out[begin : begin + step])
        for old, new, matrix in blocks:
            into[..., new] = part[..., old] @ matrix


def resample_labels(labels_XYZ: NDArray[np.integer], lines: Sequence[Line]) -> NDArray[np.integer]:
    """Resample labels: each new voxel has the one with the greatest share in it; of equal shares the lowest label.

    That is the greatest of what linear interpolation makes of each label's indicator. It is computed where the eight voxels
    around a position differ, which are few, and from these eight alone: neither time nor memory grow with the number of labels.
    Axes on which every new voxel is an old one are copied.
    """
    copied = [on.exact for on in lines]
    for axis, on in enumerate(lines):
        if copied[axis]:
            labels_XYZ = _picked(labels_XYZ, axis, on)
    if all(copied):
        return labels_XYZ.copy()
    places = [_Places.identity(len(on.positions)) if exact else _Places.of(on) for on, exact in zip(lines, copied, strict=True)]
    values, codes = coded(labels_XYZ)
    names = np.concatenate([values[:1], values])  # codes begin with 1
    out = np.empty([len(place.low) for place in places], labels_XYZ.dtype)
    step = max(1, _LABEL_VOXELS // max(1, out[0].size))
    for begin in range(0, len(out), step):
        rows = _Places(*(part[begin : begin + step] for part in places[0]))
        first, last = int(min(rows.low.min(), rows.high.min())), int(max(rows.low.max(), rows.high.max()))
        near = [_Places(rows.low - first, rows.high - first, rows.share), *places[1:]]
        out[begin : begin + step] = names[_chosen(codes[first : last + 1], near, copied)]
    return out


class _Places(NamedTuple):
    """The two old voxels around each new one on an axis, and the share of the second."""

    low: NDArray[np.intp]
    high: NDArray[np.intp]
    share: NDArray[np.float32]

    @classmethod
    def of(cls, on: Line) -> "_Places":
        low = np.floor(on.positions).astype(np.intp)
        return cls(low, np.minimum(low + 1, on.size - 1), (on.positions - low).astype(np.float32))

    @classmethod
    def identity(cls, size: int) -> "_Places":
        return cls(np.arange(size), np.arange(size), np.zeros(size, np.float32))


def _chosen(codes: NDArray[np.integer], places: Sequence[_Places], copied: Sequence[bool]) -> NDArray[np.integer]:
    """Codes of new voxels from codes of old ones."""
    least = most = codes
    for axis in range(3):
        if not copied[axis] and codes.shape[axis] > 1:
            head, tail, end = (
                tuple(part if a == axis else slice(None) for a in range(3))
                for part in (slice(-1), slice(1, None), slice(-1, None))
            )
            least = np.concatenate([np.minimum(least[head], least[tail]), least[end]], axis)
            most = np.concatenate([np.maximum(most[head], most[tail]), most[end]], axis)
    found: NDArray[np.integer] = np.where(least == most, least, 0)  # 0 where those around a position differ
    for axis in np.argsort([len(place.low) / n for place, n in zip(places, codes.shape, strict=True)]).tolist():
        found = found.take(places[axis].low, axis)
    mixed = np.nonzero(found == 0)
    around, shares = [], []
    for corner in product((False, True), repeat=3):
        if any(high and exact for high, exact in zip(corner, copied, strict=True)):
            continue
        index, share = [], np.ones(len(mixed[0]), np.float32)
        for high, place, where in zip(corner, places, mixed, strict=True):
            index.append((place.high if high else place.low)[where])
            share *= place.share[where] if high else 1 - place.share[where]
        around.append(codes[tuple(index)])
        shares.append(share)
    sums = [share.copy() for share in shares]
    for one, two in combinations(range(len(around)), 2):
        same = around[one] == around[two]
        sums[one] += shares[two] * same
        sums[two] += shares[one] * same
    best, most_share = around[0], sums[0]
    for code, total in zip(around[1:], sums[1:], strict=True):
        better = (total > most_share + _TIE) | ((total > most_share - _TIE) & (code < best))
        best, most_share = np.where(better, code, best), np.where(better, total, most_share)
    found[mixed] = best
    return found


def coded(labels: NDArray[np.integer]) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Return the values that there are, rising, and labels as 1 + index of theirs: as bytes where that many are enough."""
    # Plane by plane: sorting a whole volume takes seconds, and indices eight times the memory of its bytes.
    values = np.unique(np.concatenate([_present(plane) for plane in labels]))
    codes = np.empty(labels.shape, np.uint8 if len(values) < np.iinfo(np.uint8).max else np.int32)
    low, high = (int(values[0]), int(values[-1])) if len(values) else (0, 0)
    if high - low < _TABLE:
        table = np.zeros(high - low + 1, codes.dtype)
        table[values.astype(np.int64) - low] = np.arange(1, len(values) + 1)
        for plane, into in zip(labels, codes, strict=True):
            into[...] = table[plane if low == 0 else plane.astype(np.int64) - low]
    else:
        for plane, into in zip(labels, codes, strict=True):
            into[...] = np.searchsorted(values, plane) + 1
    return values, codes


def _present(plane: NDArray[np.integer]) -> NDArray[np.integer]:
    if plane.dtype == np.uint8:
        return np.flatnonzero(np.bincount(plane.reshape(-1), minlength=256)).astype(np.uint8)
    return np.unique(plane)
