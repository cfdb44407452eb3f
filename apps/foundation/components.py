"""Features as colours: their first three principal components."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray

from ...datasets import Image, write_image

_PICTURE, _SMALL_PICTURE = 2048, 512  # pixels on the longer side of a picture: at most, and up to which tokens are enlarged
_STRETCH = 2.5  # standard deviations to both sides of the middle grey


@dataclass(frozen=True, eq=False)
class Components:
    """The first three principal components of features; of each the largest weight is positive.

    Args:
        mean: (features,).
        directions: (features, 3 or fewer).
        deviation: of each component.
    """

    mean: NDArray[np.float64]
    directions: NDArray[np.float64]
    deviation: NDArray[np.float64]

    @classmethod
    def of(cls, parts: Iterable[NDArray[np.float32]], features: int) -> "Components":
        """Find them by the moments, in float64, of parts (..., features); NaN where there is no data."""
        count, total, products = 0, np.zeros(features), np.zeros((features, features))
        for part in parts:
            exact = part[np.isfinite(part[..., 0])].astype(np.float64)
            count += len(exact)
            total += exact.sum(axis=0)
            products += exact.T @ exact
        mean = total / max(count, 1)
        spread, directions = np.linalg.eigh(products / max(count, 1) - np.outer(mean, mean))
        take = min(3, features)
        directions = directions[:, ::-1][:, :take]
        directions = directions * np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(take)])
        return cls(mean, directions, np.sqrt(np.maximum(spread[::-1][:take], 1e-24)))

    def colours(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return (..., 3) of features (..., features): 1 to 255, and 0 where there is no data."""
        position = (values - self.mean) @ self.directions / (_STRETCH * self.deviation)
        grey = np.clip(128 + 127 * position, 1, 255)
        colour = np.zeros((*values.shape[:-1], 3))
        colour[..., : grey.shape[-1]] = np.nan_to_num(grey, nan=0.0)
        return np.rint(colour).astype(np.uint8)


def write_picture(path: Path, colours: Path) -> None:
    """Write a raster of colours as a picture of at most 2048 pixels a side, and with few tokens, larger: a token is a square."""
    with rasterio.open(colours) as source:
        step = -(-max(source.shape) // _PICTURE)
        shown = source.read(out_shape=(source.count, -(-source.height // step), -(-source.width // step)))
    times = max(_SMALL_PICTURE // max(shown.shape[1:]), 1)
    pixels = np.moveaxis(shown, 0, -1).repeat(times, axis=0).repeat(times, axis=1)
    write_image(path, Image(pixels=np.ascontiguousarray(pixels)), overwrite=True)
