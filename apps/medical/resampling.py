"""Linear resampling along the axes of a grid, one after the other: quick, and lean in memory.

Turning and new spacing keep axes parallel, so that a position on one axis depends on that axis alone: three passes with two
voxels each do what eight at once would do, and only slabs are copied.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SLAB_VOXELS = 2_000_000
_EXACT = 1e-3  # of a voxel, by which a position may miss a voxel's centre and still be meant to be it


@dataclass(frozen=True)
class Line:
    """Where the voxels of a new axis lie on an old one.

    Args:
        size: of the old axis.
        positions: (new size,) in voxels of the old axis, inside it.
        width: of the triangle that weighs old voxels: 1 interpolates, more smooths.
    """

    size: int
    positions: NDArray[np.float64]
    width: float = 1.0

    @property
    def nearest(self) -> NDArray[np.intp]:
        """Index of the nearest old voxel; of two, the lower one."""
        return np.ceil(self.positions - 0.5 - 1e-9).clip(0, self.size - 1).astype(np.intp)

    @property
    def exact(self) -> bool:
        """Whether every new voxel is an old one."""
        return self.width <= 1 and bool(np.abs(self.positions - self.nearest).max(initial=0) < _EXACT)

    def taps(self) -> tuple[Tensor, Tensor]:
        """Indices and weights, (taps, new size) each, whose sums over taps are 1."""
        first = np.floor(self.positions - self.width) + 1
        index = first + np.arange(int(2 * np.ceil(self.width)))[:, None]
        weight = np.maximum(1 - np.abs(index - self.positions) / self.width, 0)
        weight[(index < 0) | (index > self.size - 1)] = 0
        weight /= weight.sum(axis=0)
        return torch.from_numpy(index.clip(0, self.size - 1).astype(np.int64)), torch.from_numpy(weight.astype(np.float32))


def line(old: int, new: int, *, scale: float, offset: float = 0.0, antialias: bool = False) -> Line:
    """Return where ``new`` voxels lie on an axis of ``old`` ones: at ``scale * index + offset``, or at its nearer end."""
    positions = (scale * np.arange(new) + offset).clip(0, old - 1)
    return Line(old, positions, max(1.0, abs(scale)) if antialias else 1.0)


def resample(x_XYZ: NDArray[np.generic], lines: Sequence[Line]) -> NDArray[np.float32]:
    """Resample an array of any dtype and strides along its three axes; returns a new contiguous array.

    Voxels are copied, bit for bit in float32, along axes on which every new voxel is an old one.
    """
    # First what shrinks most: the passes that follow have less to do.
    for axis in sorted(range(3), key=lambda axis: len(lines[axis].positions) / lines[axis].size):
        if lines[axis].exact:
            if not np.array_equal(lines[axis].nearest, np.arange(lines[axis].size)):
                x_XYZ = np.take(x_XYZ, lines[axis].nearest, axis=axis)
        else:
            x_XYZ = _along(x_XYZ, axis, lines[axis])
    return np.array(x_XYZ, dtype=np.float32, order="C", copy=True)


def _along(x: NDArray[np.generic], axis: int, on: Line) -> NDArray[np.float32]:
    index, weight = on.taps()
    shape = [len(on.positions) if a == axis else n for a, n in enumerate(x.shape)]
    out = np.empty(shape, np.float32)
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
    return out


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
            labels_XYZ = np.take(labels_XYZ, on.nearest, axis=axis)
        rest.append(line(len(on.positions), len(on.positions), scale=1) if exact else on)
    if all(on.exact for on in rest):
        return np.ascontiguousarray(labels_XYZ)
    values = np.unique(labels_XYZ)
    out = np.zeros([len(on.positions) for on in rest], labels_XYZ.dtype)
    codes = np.searchsorted(values, labels_XYZ).astype(np.int32)  # label maps may have any values, boxes go by small ones
    boxes = find_objects(codes + 1)
    step = max(1, _SLAB_VOXELS // max(1, out[0].size))
    background = int(np.argmax(np.bincount(codes.reshape(-1), minlength=len(values))))
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
            share = _share(codes, code, [(i[:, w], t[:, w]) for (i, t), w in zip(taps, [rows, *windows[1:]], strict=True)])
            here = (slice(rows.start - begin, rows.stop - begin), *windows[1:])
            left[here] -= share
            better = share > best[here]
            best[here][better] = share[better]
            found[here][better] = values[code]
        keep = left > best + 1e-6 if background else left >= best - 1e-6
        found[keep] = values[background]
        out[begin : begin + step] = found
    return out


def _window(on: Line, part: slice) -> slice:
    """New voxels that old ones of a range have a share in; positions only rise or only fall."""
    touched = np.flatnonzero((on.positions > part.start - 1) & (on.positions < part.stop))
    return slice(int(touched[0]), int(touched[-1]) + 1) if len(touched) else slice(0, 0)


def _share(codes: NDArray[np.int32], code: int, taps: Sequence[tuple[Tensor, Tensor]]) -> NDArray[np.float32]:
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
