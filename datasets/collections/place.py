"""A place, seen by one sensor or by several at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from ..grid import Grid
from .layer import Layer, mismatch


class Labels(Protocol):
    """Classes of a place, 0 where there is none."""

    @property
    def where(self) -> str: ...

    @property
    def grid(self) -> Grid: ...

    def read(self, window: Window | None = None) -> NDArray[np.int64]: ...


@dataclass(frozen=True, eq=False)
class Place:
    """Images of one place.

    Args:
        layers: by the sensor's name; of the same ground, in pixels of any size.
        label: classes, if there are any.
    """

    layers: Mapping[str, Layer]
    label: Labels | None = None

    def check(self, name: str) -> None:
        """Raise a ValueError if the layers are not of the same ground."""
        first, *others = self.layers.values()
        grids = [(layer.where, layer.grid) for layer in others]
        if self.label is not None:
            grids.append((self.label.where, self.label.grid))
        for where, grid in grids:
            if why := mismatch(first.grid, grid):
                raise ValueError(f"{name}: {first.where} and {where} are not of the same ground ({why})")
