"""An image whose bands are known."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..grid import Grid
from .sensor import Band


@dataclass(frozen=True, eq=False)
class SensorImage:
    """Values in physical units with all that a model asks for.

    Args:
        values: float32 (bands, height, width), in the sensor's unit; NaN where there is no data.
        bands: one for each.
        gsd: metres on the ground from a pixel to the next.
        sensor: its name.
        name: of the place or file, for messages.
        grid: where it lies; None if that is not known.
    """

    values: NDArray[np.float32]
    bands: tuple[Band, ...]
    gsd: float
    sensor: str
    name: str
    grid: Grid | None = None
