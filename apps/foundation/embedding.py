"""From a scene of any size to one feature vector for each token, tile by tile."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from affine import Affine
from numpy.typing import NDArray
from torch import Tensor

from ...core.device import resolve_device
from ...core.precision import Precision, autocast, resolve_precision
from ...core.sensors.batch import SensorBatch
from ...core.sensors.model import FoundationModel
from ...core.tiles import Tile, cut
from ...datasets import Grid
from .features import LAST, parse_layers, place_features
from .images import codes
from .models import open_model
from .scenes import Pixels, open_sensor_scene

Tick = Callable[[int, int], None]


_TILE = 256


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How a scene is cut. What a token sees ends at the edge of its tile.

    Args:
        tile: pixels on a side that are encoded at once; a scene that is no larger is encoded in one go. Default: as many as a
            published model was trained on, else 256.
        halo: pixels around the part of a tile that is kept: surroundings for the tokens at its edge. Default: a quarter of the
            tile, which is then encoded four times over.
        valid: share of a token's pixels that must hold data; with less it is nodata.
    """

    tile: int | None = None
    halo: int | None = None
    valid: float = 0.5

    def __post_init__(self) -> None:
        tile, halo = _TILE if self.tile is None else self.tile, self.halo or 0
        if not (0 < self.valid <= 1 and halo >= 0 and tile > 2 * halo):
            raise ValueError(
                f"tile {tile}, halo {halo}, valid {self.valid:g}: expected a tile larger than two halos,"
                " and a share above 0 and up to 1"
            )


@dataclass(frozen=True, eq=False)
class Embedding:
    """Features of a scene.

    Args:
        values: float32 (rows, columns, features); NaN where there is no data.
        grid: of the tokens: the scene's, with pixels ``patch`` times as large; the last ones may reach beyond the scene.
        sensor: its name.
        bands: names, or wavelengths.
        patch: pixels of the scene on a side of a token.
    """

    values: NDArray[np.float32]
    grid: Grid
    sensor: str
    bands: tuple[str, ...]
    patch: int


def token_grid(grid: Grid, patch: int) -> Grid:
    """Return the grid of the tokens of a scene; a token that the scene's edge cuts counts."""
    t = grid.transform
    scaled = Affine(t.a * patch, t.b * patch, t.c, t.d * patch, t.e * patch, t.f)
    return Grid(-(-grid.height // patch), -(-grid.width // patch), grid.crs, scaled)


def embed(
    scene: str | Path,
    model: str | Path | FoundationModel,
    *,
    sensor: str | None = None,
    gsd: float | None = None,
    layer: str = LAST,
    tiling: Tiling | None = None,
    device: str = "auto",
    precision: Precision = "auto",
) -> Embedding:
    """Embed a scene: one feature vector for each token.

    Args:
        scene: a raster, as for ``open_scene``.
        model: what `geovit pretrain` wrote, or its file, or a published checkpoint.
        sensor: whose table tells bands and scale. Default: wavelengths of the file, and reflectance.
        gsd: metres on the ground from a pixel to the next. Default: the file's, else the sensor's.
        layer: depth of the features: last, a number of blocks, several joined by commas, or all.
        tiling: how the scene is cut.
        device: auto, cpu, cuda, cuda:1 or mps.
        precision: auto, fp32, bf16 or fp16.

    Returns:
        Features in memory; `geovit embed` writes scenes of any size.

    Raises:
        FileNotFoundError: no such file.
        ValueError: anything wrong with the scene or the model, in one line.
    """
    embedder = Embedder(model, layer=layer, tiling=tiling or Tiling(), device=device, precision=precision)
    opened = open_sensor_scene(scene, sensor, gsd=gsd)
    values = embedder.whole(opened)
    return Embedding(
        values, token_grid(opened.grid, embedder.patch), opened.sensor, tuple(band.name for band in opened.bands), embedder.patch
    )


class Embedder:
    """A model that embeds scenes part by part.

    Args:
        model: as in ``embed``, likewise the others.
    """

    def __init__(
        self, model: str | Path | FoundationModel, *, layer: str, tiling: Tiling, device: str, precision: Precision
    ) -> None:
        self.model = model if isinstance(model, FoundationModel) else open_model(model)
        encoder = self.model.encoder
        self.layers = parse_layers(layer, encoder)
        self.patch: int = encoder.patch
        self.features: int = encoder.dim * len(self.layers)
        self.device = resolve_device(device)
        self.dtype = resolve_precision(precision, self.device)
        self.valid = tiling.valid
        # Whole tokens; the halo counts at each side of what two tiles share.
        tile = tiling.tile or self.model.facts.get("size") or _TILE
        self.tile = max(tile // self.patch, 1) * self.patch
        tokens = self.tile // self.patch
        halo = tokens // 4 if tiling.halo is None else min(-(-tiling.halo // self.patch), (tokens - 1) // 2)
        self.halo = halo * self.patch

    def check(self, opened: Pixels) -> None:
        """Raise a ValueError, in one line, if the model has no scale for a band of the scene."""
        try:
            self.model.normalization.at(codes(opened.bands))
        except ValueError as error:
            raise ValueError(f"{opened.where}: {error}") from error

    def tiles(self, opened: Pixels) -> list[tuple[Tile, Tile]]:
        """Return the tiles of a scene, rows and columns, in pixels; the scene is filled up to whole tokens."""
        rows, columns = (
            cut(-(-side // self.patch) * self.patch, self.tile, overlap=2 * self.halo, multiple=self.patch)
            for side in opened.shape
        )
        return [(row, column) for row in rows for column in columns]

    def parts(self, opened: Pixels, tick: Tick | None = None) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
        """Yield row and column of the first token, and features (rows, columns, features), NaN where there is no data."""
        self.check(opened)
        tiles = self.tiles(opened)
        with _evaluating(self.model, self.device):
            for done, (rows, columns) in enumerate(tiles, start=1):
                values = opened.read(rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)
                kept = (
                    slice(rows.first - rows.start, rows.last - rows.start),
                    slice(columns.first - columns.start, columns.last - columns.start),
                )
                yield rows.first // self.patch, columns.first // self.patch, self._tile(values, opened, rows, columns, kept)
                if tick is not None:
                    tick(done, len(tiles))

    def whole(self, opened: Pixels) -> NDArray[np.float32]:
        """Return all features, (rows, columns, features)."""
        rows, columns = (-(-side // self.patch) for side in opened.shape)
        values = np.full((rows, columns, self.features), np.nan, dtype=np.float32)
        for row, column, part in self.parts(opened):
            values[row : row + part.shape[0], column : column + part.shape[1]] = part
        return values

    @torch.inference_mode()
    def _tile(
        self, values: NDArray[np.float32], opened: Pixels, rows: Tile, columns: Tile, kept: tuple[slice, slice]
    ) -> NDArray[np.float32]:
        finite = np.isfinite(values)
        there = np.asarray(finite.all(axis=0))
        height, width = opened.shape
        inside = (np.arange(rows.start, rows.stop) < height)[:, None] & (np.arange(columns.start, columns.stop) < width)
        share = _blocks(there, self.patch) / np.maximum(_blocks(inside, self.patch), 1)
        good = share >= self.valid
        features = np.full((*good.shape, self.features), np.nan, dtype=np.float32)
        if good.any():
            valid = torch.from_numpy(finite)[None]
            batch = SensorBatch(
                torch.from_numpy(values)[None].where(valid, 0.0),
                valid,
                codes(opened.bands),
                torch.tensor([opened.gsd]),
                opened.sensor,
            ).to(self.device)
            with autocast(self.device, self.dtype):
                found: Tensor = place_features(self.model, batch, self.layers)[0]
            features[good] = found.float().cpu().numpy()[good]
        part = tuple(slice(s.start // self.patch, s.stop // self.patch) for s in kept)
        return features[part]


def _blocks(mask: NDArray[np.bool_], patch: int) -> NDArray[np.int64]:
    height, width = mask.shape
    return np.asarray(mask.reshape(height // patch, patch, width // patch, patch).sum(axis=(1, 3)))


@contextmanager
def _evaluating(model: FoundationModel, device: torch.device) -> Iterator[None]:
    """Put a model in evaluation mode on a device, and back afterwards as it was."""
    modules = [module for module in (model.encoder, model.normalization) if isinstance(module, torch.nn.Module)]
    before = [(module, module.training, next(module.parameters(), model.normalization.mean).device) for module in modules]
    try:
        for module in modules:
            module.eval().to(device)
        yield
    finally:
        for module, training, home in before:
            module.train(training).to(home)
