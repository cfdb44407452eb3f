"""Parts that overlap, added up with weights that fade from one to the next."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .plan import Part, Plan


class Blend:
    """Adds parts up in raster order and hands out pixels as soon as no later part adds to them.

    Where one part has no data and another has, that one counts alone. What it holds is a column and a row of fading ends, not
    the result.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        # Sums of weighted values, and below them, as a last channel, of the weights.
        self._right: NDArray[np.float32] | None = None
        self._above: NDArray[np.float32] | None = None
        self._below: NDArray[np.float32] | None = None

    def add(self, part: Part, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take a part's used pixels (channels, height, width) and return those that it finishes, as ``Plan.finishes`` tells."""
        plan, used, area = self.plan, self.plan.used(part), self.plan.finishes(part)
        sums = _weighted(values, _weights(plan, part))
        if self._right is not None and used.column:
            sums[:, :, : self._right.shape[2]] += self._right
        self._right = sums[:, :, area.width :].copy() if area.width < used.width else None
        sums = sums[:, :, : area.width]
        columns = slice(area.column, area.column + area.width)
        if used.column == 0:
            self._above, self._below = self._below, None
        if self._above is not None and used.row:
            sums[:, : self._above.shape[1]] += self._above[:, :, columns]
        if area.height < used.height:
            if self._below is None:
                last = plan.used(plan.part(len(plan.columns) - 1))
                self._below = np.zeros((len(sums), used.height - area.height, last.column + last.width), np.float32)
            self._below[:, :, columns] = sums[:, area.height :]
        sums = sums[:, : area.height]
        with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: no data in any part
            return np.asarray(sums[:-1] / sums[-1])


def reaching(plan: Plan, part: Part) -> list[Part]:
    """Return the parts that have a share in what one finishes: itself, and those before it that fade into it."""
    row, column = divmod(part.index, len(plan.columns))
    back = 1 if plan.fade else 0
    rows, columns = range(max(row - back, 0), row + 1), range(max(column - back, 0), column + 1)
    return [plan.part(r * len(plan.columns) + c) for r in rows for c in columns]


def blended(plan: Plan, part: Part, values: Mapping[int, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the pixels that a part finishes, bit for bit as ``Blend`` does, from the parts that reach there, in any order.

    Args:
        plan: of the parts.
        part: what is finished.
        values: used pixels (channels, height, width) of all of ``reaching``, by their index.
    """
    if not plan.fade:
        return values[part.index]
    area = plan.finishes(part)
    sums = np.zeros((len(values[part.index]) + 1, area.height, area.width), np.float32)
    for line in (part.index, part.index - len(plan.columns)):  # in the order of Blend, because sums of floats depend on it
        of_line = np.zeros_like(sums)
        for index in (line, line - 1):
            if index in values:
                other = plan.part(index)
                used = plan.used(other)
                top, left = max(used.row, area.row), max(used.column, area.column)
                bottom = min(used.row + used.height, area.row + area.height)
                right = min(used.column + used.width, area.column + area.width)
                weighted = _weighted(values[index], _weights(plan, other))
                seen = weighted[:, top - used.row : bottom - used.row, left - used.column : right - used.column]
                of_line[:, top - area.row : bottom - area.row, left - area.column : right - area.column] += seen
        sums += of_line
    with np.errstate(invalid="ignore"):  # as in Blend
        return np.asarray(sums[:-1] / sums[-1])


def _weighted(values: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weighted values with the weights as one more channel, all 0 where there is no data."""
    sums = np.empty((len(values) + 1, *weights.shape), np.float32)
    np.multiply(values, weights, out=sums[:-1])
    sums[-1] = weights
    sums[:, np.isnan(values).any(axis=0)] = 0
    return sums


def _weights(plan: Plan, part: Part) -> NDArray[np.float32]:
    """(height, width) of a part's used pixels, in pixels of the result."""
    rows, columns = (tile.weights(plan.up, plan.down).numpy() for tile in (part.rows, part.columns))
    return np.asarray(rows[:, None] * columns)
