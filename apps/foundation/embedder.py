"""A model that turns tiles of scenes into features."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...core.device import resolve_device
from ...core.memory import FREED, LATER, forward_bytes
from ...core.precision import Precision, autocast, resolve_precision
from ...core.sensors.batch import SensorBatch
from ...core.sensors.model import FoundationModel
from ...core.streaming.plan import Area, Part, Plan
from .features import parse_layers, place_features
from .images import codes
from .models import open_model
from .scenes import Pixels

_TILE = 256
_AHEAD = 2  # tiles that were read, or computed, before they are needed
_MADE = 4  # results at a time: one weighted, one being written and one waiting, and what these take on the way


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How a scene is cut. What a token sees ends at the edge of its tile.

    Args:
        tile: pixels on a side that are encoded at once; a scene that is no larger is encoded in one go. Default: as many as
            the crops had that the model was trained on, which its file tells, else 256. In larger tiles an encoder can lose what
            it has learned.
        halo: pixels around the part of a tile that is kept: surroundings for the tokens at its edge. Default: a quarter of the
            tile, which is then encoded four times over. Tiles fade into each other over what both see.
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


class Embedder:
    """A model that embeds scenes part by part.

    Args:
        model: as in ``embed``, likewise the others.
    """

    def __init__(
        self, model: str | Path | FoundationModel | None, *, layer: str, tiling: Tiling, device: str, precision: Precision
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

    def plan(self, opened: Pixels, area: Area | None = None) -> Plan:
        """Return the tiles of a scene, filled up to whole tokens, or of an area in whole tokens of it; they are the same."""
        height, width = (-(-side // self.patch) * self.patch for side in opened.shape)
        tokens, shared = self.tile // self.patch, 2 * self.halo // self.patch
        # All that two tiles see, as far as there is room for a tile to fade in and out.
        fade = min(shared, (tokens - shared) // 2 * 2)
        return Plan(
            image=(height, width),
            area=area or Area(0, 0, height, width),
            side=self.tile,
            overlap=shared * self.patch,
            fade=fade * self.patch,
            multiple=self.patch,
            fixed=True,
            down=self.patch,
        )

    def bytes_of(self, opened: Pixels, threads: int = 1) -> float:
        """Predict the bytes that embedding takes at its peak beside what there is before."""
        bands, plan = len(opened.bands), self.plan(opened)
        side = min(self.tile, max(plan.image))
        network = 0.0
        if self.device.type == "cpu":
            network = FREED * forward_bytes(_Network(self, opened), (1, bands, side, side), device=self.device, dtype=self.dtype)
        read = 5.0 * bands * side**2
        made = 4.0 * self.features * (side // self.patch) ** 2
        fading = 8.0 * self.features * plan.fade // self.patch * (plan.image[1] // self.patch)
        return threads * network + (threads + _AHEAD) * max(read, made) + _MADE * made + fading + LATER

    @torch.inference_mode()
    def tile_features(self, values: NDArray[np.float32], opened: Pixels, part: Part) -> NDArray[np.float32]:
        """Return features (features, rows, columns) of a tile's used tokens; NaN where too few pixels hold data."""
        rows, columns = part.rows, part.columns
        finite = np.isfinite(values)
        there = np.asarray(finite.all(axis=0))
        height, width = opened.shape
        inside = (np.arange(rows.start, rows.stop) < height)[:, None] & (np.arange(columns.start, columns.stop) < width)
        share = blocks(there, self.patch) / np.maximum(blocks(inside, self.patch), 1)
        good = share >= self.valid
        features = np.full((self.features, *good.shape), np.nan, dtype=np.float32)
        if good.any():
            valid = torch.from_numpy(finite)[None]
            found = self.encoded(torch.from_numpy(values)[None].where(valid, 0.0), valid, opened)
            features[:, good] = found.float().cpu().numpy()[good].T
        used = (
            slice((tile.first - tile.start) // self.patch, -(-(tile.last - tile.start) // self.patch)) for tile in (rows, columns)
        )
        return features[(slice(None), *used)]

    def encoded(self, values: Tensor, valid: Tensor, opened: Pixels) -> Tensor:
        """Encode an image of the scene's bands, (1, bands, height, width): (rows, columns, features)."""
        batch = SensorBatch(values, valid, codes(opened.bands), torch.tensor([opened.gsd]), opened.sensor).to(self.device)
        with autocast(self.device, self.dtype):
            return place_features(self.model, batch, self.layers)[0]


class _Network(torch.nn.Module):
    """The encoder as a function of pixels alone, to measure what it takes."""

    def __init__(self, embedder: Embedder, opened: Pixels) -> None:
        super().__init__()
        self._encoded = embedder.encoded
        self._opened = opened

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self._encoded(x_BCHW, torch.ones_like(x_BCHW, dtype=torch.bool), self._opened)


def blocks(mask: NDArray[np.bool_], patch: int) -> NDArray[np.int64]:
    """Count the true pixels of each token of a mask (height, width) in whole tokens."""
    height, width = mask.shape
    return np.asarray(mask.reshape(height // patch, patch, width // patch, patch).sum(axis=(1, 3)))


def prepare(model: FoundationModel, device: torch.device) -> None:
    """Put a model in evaluation mode on a device."""
    for module in _modules(model):
        module.eval().to(device)


@contextmanager
def evaluating(model: FoundationModel, device: torch.device) -> Iterator[None]:
    """Put a model in evaluation mode on a device, and back afterwards as it was."""
    modules = _modules(model)
    before = [(module, module.training, next(module.parameters(), model.normalization.mean).device) for module in modules]
    try:
        prepare(model, device)
        yield
    finally:
        for module, training, home in before:
            module.train(training).to(home)


def _modules(model: FoundationModel) -> list[torch.nn.Module]:
    return [module for module in (model.encoder, model.normalization) if isinstance(module, torch.nn.Module)]
