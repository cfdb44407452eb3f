"""Labelled pixels and the tiles of the scene around them."""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from rasterio.windows import Window
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import IterableDataset

from ...datasets import ClassInfo, Labels, Scene
from .recipe import TrainingConfig

logger = logging.getLogger(__name__)

Mask = NDArray[np.bool_]  # over the labelled pixels of a LabelledScene

UNLABELLED = -1


def read_padded(scene: Scene, row: int, column: int, height: int, width: int) -> NDArray[np.float32]:
    """Pixels (bands, height, width) of any rectangle; what lies outside the scene is NaN, as nodata is."""
    top, bottom = max(row, 0), min(row + height, scene.grid.height)
    left, right = max(column, 0), min(column + width, scene.grid.width)
    if (bottom - top, right - left) == (height, width):
        return scene.read(Window(left, top, width, height))
    values = np.full((scene.num_bands, height, width), np.nan, dtype=np.float32)
    if top < bottom and left < right:
        part = scene.read(Window(left, top, right - left, bottom - top))
        values[:, top - row : bottom - row, left - column : right - column] = part
    return values


@dataclass(frozen=True, eq=False)
class Tile:
    """A square of the scene: ``values`` (bands, side, side) from (row, column) on, and the labelled pixels in its core."""

    row: int
    column: int
    values: Tensor
    pixels: NDArray[np.int64]


class LabelledScene:
    """The labelled, valid pixels of a scene, numbered, and tiles that hold them with their surroundings.

    Only tiles with labels are read, so that memory follows the labels and not the scene. ``rows``, ``columns`` and
    ``targets`` (the position in ``classes``) are arrays over the pixels.

    Args:
        scene: the image.
        labels: on its grid.
        margin: pixels that each tile holds around its core, a multiple of the networks' window.
        core: pixels on a side of a core, likewise.

    Raises:
        ValueError: no labelled pixel is valid.
    """

    def __init__(self, scene: Scene, labels: Labels, *, margin: int, core: int) -> None:
        self.margin = margin
        self.shape = scene.grid.shape
        rows, columns = np.divmod(labels.pixels, self.shape[1])
        corners, tile_of = np.unique(np.stack([rows // core, columns // core], 1), axis=0, return_inverse=True)
        grouped = np.argsort(tile_of.ravel(), kind="stable")
        of_tile = np.split(grouped, np.cumsum(np.bincount(tile_of.ravel(), minlength=len(corners)))[:-1])
        self.tiles: list[Tile] = []
        kept: list[NDArray[np.int64]] = []
        for (row, column), inside in zip(corners * core, of_tile, strict=True):
            values = read_padded(scene, row - margin, column - margin, core + 2 * margin, core + 2 * margin)
            valid = np.isfinite(values[:, rows[inside] - row + margin, columns[inside] - column + margin]).all(0)
            inside = inside[valid]
            if len(inside):
                numbers = np.arange(len(inside)) + sum(map(len, kept))
                self.tiles.append(Tile(int(row) - margin, int(column) - margin, torch.from_numpy(values), numbers))
                kept.append(inside)
        if not kept:
            raise ValueError(f"all {len(rows)} labelled pixels lie where the scene has no data")
        order = np.concatenate(kept)
        if len(order) < len(rows):
            logger.warning("%d of %d labelled pixels lie where the scene has no data", len(rows) - len(order), len(rows))
        self.rows, self.columns = rows[order], columns[order]
        found = labels.targets[order]
        present = np.unique(found)
        for info in (info for i, info in enumerate(labels.classes) if i not in present):
            logger.warning("class %s has labels only where the scene has no data: it is left out", info.name)
        self.targets = np.searchsorted(present, found).astype(np.int64)
        self.classes: tuple[ClassInfo, ...] = tuple(labels.classes[i] for i in present)

    def __len__(self) -> int:
        return len(self.targets)

    def spectra(self) -> NDArray[np.float32]:
        """Raw values (pixels, bands)."""
        parts = [tile.values[(slice(None), *self.position(tile, tile.pixels))].T for tile in self.tiles]
        return torch.cat(parts).numpy()

    @torch.no_grad()
    def transformed(self, transform: Callable[[Tensor], Tensor]) -> "LabelledScene":
        """Return the same pixels over tiles to which a transform of (1, bands, height, width) was applied."""
        other = copy.copy(self)
        other.tiles = [replace(tile, values=transform(tile.values[None])[0]) for tile in self.tiles]
        return other

    def position(self, tile: Tile, pixels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows and columns of pixels within a tile's values."""
        return self.rows[pixels] - tile.row, self.columns[pixels] - tile.column

    def target_map(self, chosen: Mask, padding: int) -> csr_array:
        """One more than the targets of the chosen pixels, on the scene's grid enlarged by ``padding`` on all sides."""
        places = self.rows[chosen] + padding, self.columns[chosen] + padding
        height, width = (size + 2 * padding for size in self.shape)
        return csr_array((self.targets[chosen] + 1, places), shape=(height, width))


def require_trainable(classes: Sequence[ClassInfo], targets: NDArray[np.int64]) -> None:
    """Raise a ValueError unless there are two classes at least, and no class of a single pixel."""
    counts = np.bincount(targets, minlength=len(classes))
    present = [info.name for info, count in zip(classes, counts, strict=True) if count]
    if len(present) < 2:
        raise ValueError(f"the labels hold one class only ({', '.join(present)}), at least two are needed")
    single = [f"{info.name} ({info.value})" for info, count in zip(classes, counts, strict=True) if count == 1]
    if single:
        raise ValueError(f"only one usable pixel of class {', '.join(single)}: label more of it, or leave it out")


def validation_folds(labelled: LabelledScene, training: Mask, config: TrainingConfig, seed: int) -> list[Mask]:
    """Cut the training pixels into validation sets of whole spatial blocks, one for each member.

    A class keeps at least one training pixel: where a fold would take all of them, they stay. Folds may come out empty if there
    is only one block.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    pixels = np.flatnonzero(training)
    folds = [np.zeros(len(labelled), dtype=np.bool_) for _ in range(config.members)]
    parts = max(round(1 / config.validation), config.members, 2)
    size = config.block
    while True:  # smaller blocks if the labels lie close together
        blocks = labelled.rows[pixels] // size * labelled.shape[1] + labelled.columns[pixels] // size
        if len(np.unique(blocks)) >= parts or size == 1:
            break
        size //= 2
    parts = min(parts, len(np.unique(blocks)), int(np.bincount(labelled.targets[pixels]).max()))
    if parts < 2:
        return folds
    splitter = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # Classes of fewer pixels than parts are in some parts only, as is known and dealt with below.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        splits = [held_out for _, held_out in splitter.split(pixels, labelled.targets[pixels], blocks)]
    for member, fold in enumerate(folds):
        fold[pixels[splits[member % parts]]] = True
        left = np.unique(labelled.targets[training & ~fold])
        fold &= np.isin(labelled.targets, left)
    return folds


class Crops(IterableDataset[tuple[Tensor, Tensor]]):
    """An endless stream of batches of crops (batch, features, side, side) and targets (batch, side, side).

    A crop lies around a random training pixel, up to ``jitter`` pixels off its centre; its class is drawn by the square root of
    the count. It is turned or mirrored, and disturbed as ``TrainingConfig`` says. Targets are those of all training pixels in it.
    """

    def __init__(
        self, labelled: LabelledScene, training: Mask, config: TrainingConfig, *, side: int, jitter: int, seed: int
    ) -> None:
        self.labelled, self.config, self.side, self.jitter, self.seed = labelled, config, side, jitter, seed
        self.pixels = np.flatnonzero(training)
        counts = np.bincount(labelled.targets[self.pixels], minlength=len(labelled.classes))
        weight = 1 / np.sqrt(counts[labelled.targets[self.pixels]])
        self.weight = weight / weight.sum()
        self.target = labelled.target_map(training, side)
        self.tile_of = {int(pixel): tile for tile in labelled.tiles for pixel in tile.pixels}

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        random = np.random.default_rng(self.seed)
        while True:
            chosen = random.choice(self.pixels, self.config.batch, p=self.weight)
            crops, targets = zip(*(self._crop(int(pixel), random) for pixel in chosen), strict=True)
            yield torch.stack(crops), torch.stack(targets)

    def _crop(self, pixel: int, random: np.random.Generator) -> tuple[Tensor, Tensor]:
        tile, side, config = self.tile_of[pixel], self.side, self.config
        shift = random.integers(-self.jitter, self.jitter + 1, 2) - side // 2
        row, column = self.labelled.rows[pixel] + shift[0], self.labelled.columns[pixel] + shift[1]
        crop = tile.values[:, row - tile.row :, column - tile.column :][:, :side, :side]
        there = self.target[row + side : row + 2 * side, column + side : column + 2 * side]
        target = torch.from_numpy(there.toarray() - 1)  # what the map does not hold is UNLABELLED
        turns = int(random.integers(4))
        crop, target = torch.rot90(crop, turns, (1, 2)), torch.rot90(target, turns, (0, 1))
        if random.random() < 0.5:
            crop, target = crop.flip(2), target.flip(1)
        noise = torch.from_numpy(random.standard_normal(crop.shape, dtype=np.float32))
        kept = torch.from_numpy(random.random((len(crop), 1, 1), dtype=np.float32) >= config.band_dropout)
        gain, offset = config.gain * random.standard_normal(2)
        return (crop * float(1 + gain) + float(offset) + config.noise * noise) * kept, target


def centre(x: Tensor, like: Tensor) -> Tensor:
    """Cut the last two axes of ``x`` to the size of those of ``like``, the same on every side."""
    rows, columns = (x.shape[axis] - like.shape[axis] for axis in (-2, -1))
    return F.pad(x, (-(columns // 2), -(columns - columns // 2), -(rows // 2), -(rows - rows // 2)))


def at_pixels(network: Callable[[Tensor], Tensor], labelled: LabelledScene, chosen: Mask, *, reach: int, window: int) -> Tensor:
    """Apply a network (batch, channels, height, width) -> (batch, outputs, height', width') at some labelled pixels only.

    Args:
        network: may return fewer pixels than it gets, the same on every side.
        labelled: its tiles are the network's input.
        chosen: the pixels.
        reach: of the network, in pixels.
        window: period of its window grid. 1 means that a pixel's surroundings alone decide, which are then cut out.

    Returns:
        (chosen pixels, outputs) in the order of their numbers, on the CPU.
    """
    parts, order = [], []
    for tile in labelled.tiles:
        pixels = tile.pixels[chosen[tile.pixels]]
        if not len(pixels):
            continue
        rows, columns = labelled.position(tile, pixels)
        order.append(pixels)
        if window == 1:
            side = 2 * reach + 1
            starts = zip((rows - reach).tolist(), (columns - reach).tolist(), strict=True)
            crops = [tile.values[:, row:, column:][:, :side, :side] for row, column in starts]
            outputs = [network(torch.stack(crops[i : i + 256])).cpu() for i in range(0, len(crops), 256)]
            parts.append(torch.cat([output[:, :, output.shape[2] // 2, output.shape[3] // 2] for output in outputs]))
        else:
            margin = -(-reach // window) * window
            side = window + 2 * margin
            cells, cell_of = np.unique(np.stack([rows // window, columns // window], 1), axis=0, return_inverse=True)
            origins = cells * window - margin
            if len(origins) * side**2 >= tile.values[0].numel():  # all at once is less
                origins, cell_of, side = np.zeros((1, 2), np.int64), np.zeros(len(rows), np.int64), tile.values.shape[-1]
            crops = [tile.values[:, row:, column:][:, :side, :side] for row, column in origins.tolist()]
            output = torch.cat([network(torch.stack(crops[i : i + 64])).cpu() for i in range(0, len(crops), 64)])
            cut = (side - output.shape[-1]) // 2
            row, column = (np.stack([rows, columns]) - origins[cell_of.ravel()].T) - cut
            parts.append(output[cell_of.ravel(), :, row, column])
    return torch.cat(parts)[np.argsort(np.concatenate(order))]
