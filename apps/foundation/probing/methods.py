"""Features of cells: an encoder's, and those that it is measured against."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ....core.precision import Precision
from ....core.sensors.model import FoundationModel
from ....core.sensors.normalization import Normalization
from ....datasets.sensors import SensorImage
from ..embedder import Embedder, Tiling
from ..features import LAST, blocks_of, parse_layers
from ..images import collate
from ..parts import embed_whole
from ..scenes import LoadedImage
from .probes import Features
from .references import band_statistics, random_convolutions
from .study import Method

AUTO = "auto"
_GridFeatures = NDArray[np.float32]  # (rows, columns, features)


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """How features of cells are taken.

    Args:
        layer: depth of the encoder's features: last, a number of blocks, several joined by commas, all (the tokens
            before the first block and after each), or auto: the tokens before the first block, those after half of the blocks or
            the last ones, by cross-validation on training cells; of encoders on grids the last ones.
        pool: cells on a side whose mean is joined to each cell's own features, for all methods; 1: none.
        convolutions: random ones, twice as many features.
        seeds: random convolutions, and untrained encoders, that the figures are the mean of.
        tiling: how images are cut.
        scale: of the values that encoders get: the model's, or "image", by which each image's bands are standardised by what they
            hold themselves, as those of random convolutions are. Features then tell less of how bright an image is, and more of
            what differs within it, whatever the model was trained on.
    """

    layer: str = LAST
    pool: int = 1
    convolutions: int = 256
    seeds: int = 3
    tiling: Tiling = field(default_factory=Tiling)
    scale: Literal["model", "image"] = "model"

    def __post_init__(self) -> None:
        if not (self.pool >= 1 and self.pool % 2 and self.convolutions >= 1 and self.seeds >= 1):
            raise ValueError(
                f"pool {self.pool}, convolutions {self.convolutions}, seeds {self.seeds}: expected an odd number,"
                " one or more, one or more"
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class Extractor:
    """Makes features of images.

    Args:
        model: the encoder of interest.
        options: of all features.
        cell: pixels on a side, a multiple of the encoder's patch.
        seed: of what is random.
        device, precision: as for ``Embedder``.
    """

    model: FoundationModel
    options: FeatureOptions
    cell: int
    seed: int = 0
    device: str = "auto"
    precision: Precision = "auto"

    def encoder(self, images: Sequence[SensorImage]) -> list[Features]:
        """Candidates of the encoder's features, (cells, features) each; NaN where there is no data."""
        return self._encoded(self.model, images)

    def untrained(self, images: Sequence[SensorImage]) -> list[list[Features]]:
        """Those of encoders with random weights, for each seed."""
        runs = []
        for seed in range(self.seed, self.seed + self.options.seeds):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                fresh = self.model.untrained()
            runs.append(self._encoded(replace(self.model, encoder=fresh), images))
        return runs

    def statistics(self, images: Sequence[SensorImage]) -> Features:
        """Mean and deviation of each band in each cell."""
        return self._joined([band_statistics(image.values, self.cell) for image in images])

    def convolutions(self, images: Sequence[SensorImage]) -> list[Features]:
        """Random convolutions of images whose bands are standardised each by itself, for each seed."""
        standardised = [_standardised(image.values) for image in images]
        count, cell = 2 * self.options.convolutions, self.cell
        return [
            self._joined([random_convolutions(values, cell, features=count, seed=seed) for values in standardised])
            for seed in range(self.seed, self.seed + self.options.seeds)
        ]

    def methods(self, images: Sequence[SensorImage], encoded: list[Features] | None = None) -> list[Method]:
        """Return the encoder, and what it is measured against."""
        return [
            Method("encoder", [self.encoder(images) if encoded is None else encoded]),
            Method("band statistics", [[self.statistics(images)]]),
            Method("random convolutions", [[found] for found in self.convolutions(images)]),
            Method("untrained encoder", self.untrained(images)),
        ]

    def _encoded(self, model: FoundationModel, images: Sequence[SensorImage]) -> list[Features]:
        blocks, candidates = blocks_of(model.encoder), [self.options.layer]
        if self.options.layer == AUTO:
            candidates = ["0", str(blocks // 2), LAST] if blocks else [LAST]
        whole = []
        for image in images:
            own = model if self.options.scale == "model" else _scaled_by(image, model)
            embedder = Embedder(
                own, layer=",".join(candidates), tiling=self.options.tiling, device=self.device, precision=self.precision
            )
            whole.append(pooled(embed_whole(embedder, LoadedImage(image)), self.cell // embedder.patch))
        found, first = [], 0
        for candidate in candidates:
            width = model.encoder.dim * len(parse_layers(candidate, model.encoder))
            found.append(self._joined([part[..., first : first + width] for part in whole], image_shapes(images, self.cell)))
            first += width
        return found

    def _joined(self, grids: Sequence[_GridFeatures], shapes: Sequence[tuple[int, int]] | None = None) -> Features:
        """Cells of all places below each other, with the mean of their surroundings beside them if that is asked for."""
        parts = []
        for number, grid in enumerate(grids):
            whole = grid if shapes is None else grid[: shapes[number][0], : shapes[number][1]]
            if self.options.pool > 1:
                whole = np.concatenate([whole, surroundings(whole, self.options.pool)], axis=-1)
            parts.append(whole.reshape(-1, whole.shape[-1]))
        return np.concatenate(parts).astype(np.float32, copy=False)


def _scaled_by(image: SensorImage, model: FoundationModel) -> FoundationModel:
    """Return the model with the scale of an image; where that holds nothing, the model.

    Raises:
        ValueError: a model that has a scale of another kind.
    """
    if type(model.normalization) is not Normalization:
        raise ValueError("scale 'image' is for encoders of geovit pretrain: this model has a scale of its own kind")
    if not np.isfinite(image.values).any():
        return model
    return replace(model, normalization=Normalization.fitted([collate([image])], logarithm=model.normalization.logarithm))


def image_shapes(images: Sequence[SensorImage], cell: int) -> list[tuple[int, int]]:
    """Rows and columns of whole cells of each image."""
    return [(image.values.shape[1] // cell, image.values.shape[2] // cell) for image in images]


def pooled(tokens: _GridFeatures, factor: int) -> _GridFeatures:
    """Mean of the tokens of each cell that hold data, (rows, columns, features); NaN where none does."""
    if factor == 1:
        return tokens
    rows, columns = (side // factor for side in tokens.shape[:2])
    parts = tokens[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor, -1)
    there = np.isfinite(parts)
    total = np.where(there, parts, 0).sum(axis=(1, 3))
    count = there.sum(axis=(1, 3))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)


def surroundings(grid: _GridFeatures, side: int) -> _GridFeatures:
    """Mean of the ``side`` x ``side`` cells around each, of those that are within the image and hold data."""
    reach = side // 2
    there = np.isfinite(grid)
    total, count = (
        np.pad(values.astype(np.float64), ((reach, reach), (reach, reach), (0, 0)))
        for values in (np.where(there, grid, 0), there)
    )
    summed = [
        np.lib.stride_tricks.sliding_window_view(values, (side, side), axis=(0, 1)).sum(axis=(-2, -1))
        for values in (total, count)
    ]
    return np.where(summed[1] > 0, summed[0] / np.maximum(summed[1], 1), np.nan).astype(np.float32)


def _standardised(values: NDArray[np.float32]) -> NDArray[np.float32]:
    there = np.isfinite(values)
    count = np.maximum(there.sum(axis=(1, 2), keepdims=True), 1)
    known = np.where(there, values, 0)
    mean = known.sum(axis=(1, 2), keepdims=True, dtype=np.float64) / count
    spread = np.sqrt((np.where(there, values - mean, 0) ** 2).sum(axis=(1, 2), keepdims=True) / count)
    return np.asarray((values - mean) / np.maximum(spread, 1e-6), dtype=np.float32)
