"""Random aligned crops of image pairs."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ...datasets.pairs import Pair

Crop = tuple[Tensor, Tensor]


class Crops(Dataset[Crop]):
    """Crops of one epoch, each turned and mirrored at random; the same seed, epoch and index give the same crop.

    An item is a source (C, size, size) and a target (C, scale * size, scale * size) in 0..1. Images are drawn by their number of
    pixels, so that all pixels are equally likely.

    Args:
        pairs: images of a common scale. Where a pair has no source, the target's crop is given for both: it is degraded later.
        scale: target pixels for each source pixel.
        size: of a crop on each side, in pixels of the source.
        length: crops in the epoch.
        seed, epoch: of the random numbers.
        choices: crops that are drawn for each that is given: the one with the strongest detail. Above 1, flat surfaces such as
            skies become rare, from which there is nothing to learn.
        margin: source pixels that are given more on each side of targets that are to be degraded.

    Raises:
        ValueError: if an image is smaller than a crop.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        *,
        scale: int,
        size: int,
        length: int,
        seed: tuple[int, ...],
        epoch: int = 0,
        choices: int = 1,
        margin: int = 0,
    ) -> None:
        self.pairs, self.scale, self.size, self.length = pairs, scale, size, length
        self.seed, self.epoch, self.choices, self.margin = seed, epoch, choices, margin
        for pair in pairs:
            height, width = (side // scale for side in pair.target.shape[:2])
            if min(height, width) < self._extent(pair):
                raise ValueError(
                    f"{pair.name} has {width} x {height} pixels{' when reduced' if scale > 1 else ''}, "
                    f"a crop takes {self._extent(pair)} x {self._extent(pair)}"
                )
        areas = np.array([pair.target.shape[0] * pair.target.shape[1] for pair in pairs], np.float64)
        self._shares = np.cumsum(areas / areas.sum())

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Crop:
        """Draw the crop of an index."""
        if not 0 <= index < self.length:
            raise IndexError(index)
        rng = np.random.default_rng([*self.seed, self.epoch, index])
        candidates = [self._draw(rng) for _ in range(self.choices)]
        source, target = max(candidates, key=lambda pair: _detail(pair[0])) if self.choices > 1 else candidates[0]
        turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
        first, second = (_as_tensor(np.rot90(image[:, ::-1] if mirrored else image, turns)) for image in (source, target))
        return first, second

    def __iter__(self) -> Iterator[Crop]:
        return (self[index] for index in range(self.length))

    def _draw(self, rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
        pair = self.pairs[min(int(np.searchsorted(self._shares, rng.random(), side="right")), len(self.pairs) - 1)]
        extent, scale = self._extent(pair), self.scale
        y, x = (int(rng.integers(side // scale - extent + 1)) for side in pair.target.shape[:2])
        target = pair.target[y * scale : (y + extent) * scale, x * scale : (x + extent) * scale]
        return (target if pair.source is None else pair.source[y : y + extent, x : x + extent]), target

    def _extent(self, pair: Pair) -> int:
        return self.size + (2 * self.margin if pair.source is None else 0)


def _detail(image_HWC: NDArray[Any]) -> float:
    plane_HW = image_HWC[..., image_HWC.shape[2] // 2].astype(np.float32)
    return float(np.abs(np.diff(plane_HW, axis=0)).mean() + np.abs(np.diff(plane_HW, axis=1)).mean())


def _as_tensor(image_HWC: NDArray[Any]) -> Tensor:
    peak = np.iinfo(image_HWC.dtype).max
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(image_HWC, -1, 0), np.float32)).div_(peak)
