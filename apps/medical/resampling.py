"""Linear resampling along the axes of a grid, one after the other: quick, and lean in memory.

Turning and new spacing keep axes parallel, so that a position on one axis depends on that axis alone: three passes with two
voxels each do what eight at once would do, and only slabs are copied.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SLAB_VOXELS = 2_000_000
_BLOCK = 48  # new voxels that share a block of weights
_TABLE = 65536  # values that a table is made for
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

    What linear interpolation makes of each label's indicator is compared label by label, in slabs and in the label's box alone,
    so that memory does not grow with their number. Axes on which every new voxel is an old one are copied.
    """
    from scipy.ndimage import find_objects

    rest: list[Line] = []
    for axis, on in enumerate(lines):
        exact = on.exact
        if exact:
            labels_XYZ = _picked(labels_XYZ, axis, on)
        rest.append(line(len(on.positions), len(on.positions), scale=1) if exact else on)
    if all(on.exact for on in rest):
        return labels_XYZ.copy()
    out = np.zeros([len(on.positions) for on in rest], labels_XYZ.dtype)
    values, codes = coded(labels_XYZ)
    boxes = find_objects(codes, len(values))
    step = max(1, _SLAB_VOXELS // max(1, out[0].size))
    background = int(np.argmax(sum(np.bincount(plane.reshape(-1), minlength=len(values) + 1) for plane in codes))) - 1
    taps = [on.taps() for on in rest]
    for begin in range(0, len(out), step):
        shape = out[begin : begin + step].shape
        # The most frequent label is what the others leave.
        best, left = np.zeros(shape, np.float32), np.ones(shape, np.float32)
        found = np.full(shape, values[background])
        for code, box in enumerate(boxes):
            if code == background or box is None:
                continue
            windows = [_window(on, part) for on, part in zip(rest, box, strict=True)]
            rows = slice(max(windows[0].start, begin), min(windows[0].stop, begin + step))
            if rows.start >= rows.stop or any(window.start >= window.stop for window in windows[1:]):
                continue
            share = _share(codes, code + 1, [(i[:, w], t[:, w]) for (i, t), w in zip(taps, [rows, *windows[1:]], strict=True)])
            here = (slice(rows.start - begin, rows.stop - begin), *windows[1:])
            left[here] -= share
            better = share > best[here]
            best[here][better] = share[better]
            found[here][better] = values[code]
        keep = left > best + 1e-6 if background else left >= best - 1e-6
        found[keep] = values[background]
        out[begin : begin + step] = found
    return out


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


def _window(on: Line, part: slice) -> slice:
    """New voxels that old ones of a range have a share in; positions only rise or only fall."""
    touched = np.flatnonzero((on.positions > part.start - 1) & (on.positions < part.stop))
    return slice(int(touched[0]), int(touched[-1]) + 1) if len(touched) else slice(0, 0)


def _share(codes: NDArray[np.integer], code: int, taps: Sequence[tuple[Tensor, Tensor]]) -> NDArray[np.float32]:
    """Interpolate the indicator of one code, reading no more of it than is needed."""
    lows = [int(index.min()) for index, _ in taps]
    part = codes[tuple(slice(low, int(index.max()) + 1) for low, (index, _) in zip(lows, taps, strict=True))]
    x = torch.from_numpy((part == code).astype(np.float32))
    for axis, ((index, weight), low) in enumerate(zip(taps, lows, strict=True)):
        shape = [-1 if a == axis else 1 for a in range(3)]
        y = x.index_select(axis, index[0] - low) * weight[0].reshape(shape)
        for i, w in zip(index[1:], weight[1:], strict=True):
            y.addcmul_(x.index_select(axis, i - low), w.reshape(shape))
        x = y
    return x.numpy()
