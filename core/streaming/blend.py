"""Parts that overlap, added up with weights that fade from one to the next."""

import numpy as np
from numpy.typing import NDArray

from .plan import Part, Plan


class Blend:
    """Adds parts up in raster order and hands out pixels as soon as no later part adds to them.

    What it holds is a column and a row of fading ends, not the result.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._right: NDArray[np.float32] | None = None
        self._above: NDArray[np.float32] | None = None
        self._below: NDArray[np.float32] | None = None

    def add(self, part: Part, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take a part's used pixels (channels, height, width) and return those that it finishes, as ``Plan.finishes`` tells."""
        plan, used, area = self.plan, self.plan.used(part), self.plan.finishes(part)
        values = values * _weights(plan, part)
        if self._right is not None and used.column:
            values[:, :, : self._right.shape[2]] += self._right
        self._right = values[:, :, area.width :].copy() if area.width < used.width else None
        values = values[:, :, : area.width]
        columns = slice(area.column, area.column + area.width)
        if used.column == 0:
            self._above, self._below = self._below, None
        if self._above is not None and used.row:
            values[:, : self._above.shape[1]] += self._above[:, :, columns]
        if area.height < used.height:
            if self._below is None:
                width = plan.used(plan.part(len(plan.columns) - 1))
                self._below = np.zeros((len(values), used.height - area.height, width.column + width.width), np.float32)
            self._below[:, :, columns] = values[:, area.height :]
        return values[:, : area.height]


def _weights(plan: Plan, part: Part) -> NDArray[np.float32]:
    """(height, width) of a part's used pixels, in pixels of the result."""
    rows, columns = (tile.weights(plan.up, plan.down).numpy() for tile in (part.rows, part.columns))
    return np.asarray(rows[:, None] * columns)
