"""From a model to a map of a scene of any size, part by part."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from ...core.memory import forward_bytes
from ...core.precision import autocast
from ...core.streaming.plan import Area, Part, Plan
from ...core.streaming.run import Finished, run
from ...datasets import AreaMask, Scene
from ...datasets.hectares import row_hectares
from .adaptation import read_encoder
from .model import Classifier, load_classifier
from .samples import read_padded
from .sampling import warn_if_far

MAP, PROBABILITIES = "map", "probabilities"  # layers of a result

_LARGEST_CELL = 512
_LARGEST_PATCHES = 128  # of cells and parts of a patch network, which takes minutes for so many: a kill should not lose more
_CACHED = 1e8  # bytes of a forward pass; beyond, its tensors leave the caches and are pages that the system has to clear:
_SLOW = 1.6  # about what that costs (measured: 54 us a pixel in cells of 64, 88 in cells of 256, surroundings included)
_MOST_BYTES = 1e9  # of a forward pass
_PROBED = 16  # pixels on a side, from which the bytes of a forward pass are told
LARGEST_SIDE = 1024  # pixels of a part: what parts cost beside their pixels is nothing by then


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of each pixel of a scene.

    ``index`` is int32 (H, W), the class or -1 where nodata; ``confidence`` and ``entropy`` are float32 (H, W), the largest
    probability and the entropy divided by that of equal probabilities (0 sure, 1 no idea), NaN where nodata.
    """

    index: NDArray[np.int32]
    confidence: NDArray[np.float32]
    entropy: NDArray[np.float32]


class Teller(Protocol):
    """Tells what pixels are. It looks ``halo`` pixels, whole windows, beyond those that it tells of."""

    bands: int
    channels: int
    window: int
    halo: int

    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map raw values (bands, height, width) to (channels, height - 2 halo, width - 2 halo).

        The first channel is the position of the class, the second, if any, its probability. What is told of a pixel that is
        not valid does not matter.
        """
        ...


class ModelTeller:
    """A classifier as a teller: class, its probability, and the entropy divided by that of equal probabilities."""

    channels = 3

    def __init__(self, model: Classifier, device: torch.device, precision: torch.dtype) -> None:
        self.model, self.device, self.precision = model.eval().to(device), device, precision
        self.bands, self.window, self.halo = model.info.bands, model.window, model.halo

    @torch.inference_mode()
    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        x = torch.from_numpy(values)[None].to(self.device)
        with autocast(self.device, self.precision):
            probabilities: Tensor = self.model(x)[0].cpu()
        cut = [self.halo - (seen - given) // 2 for seen, given in zip(values.shape[1:], probabilities.shape[1:], strict=True)]
        height, width = (size - 2 * self.halo for size in values.shape[1:])
        probabilities = probabilities[:, cut[0] : cut[0] + height, cut[1] : cut[1] + width]
        top, chosen = probabilities.clamp_max(1).max(0)  # rounding goes beyond
        spread = (torch.special.entr(probabilities).sum(0) / np.log(len(probabilities))).clamp_max(1)
        return torch.stack([chosen.float(), top, spread]).numpy()


@dataclass(frozen=True)
class Cost:
    """How a scene is best cut, and what computing takes.

    Args:
        cell: pixels on a side of the squares that are computed at once.
        bytes: of the process, that computing one of them takes.
        largest: pixels on a side of the largest parts that are of use, a multiple of ``cell``.
    """

    cell: int
    bytes: float
    largest: int


def cost_of(model: Classifier, *, device: torch.device, precision: torch.dtype) -> Cost:
    """Choose the side of the cells that a scene is computed in: a whole number of windows, the same for every scene.

    Small cells look at more surroundings for each pixel, large ones leave the caches. As cells lie at the same places of a
    scene whatever of it is mapped, and in which parts, the map of a piece is bit for bit a piece of the map.
    """
    probed = -(-max(_PROBED, 2 * model.receptive_field + 1) // model.window) * model.window
    taken = forward_bytes(model, (1, model.info.bands, probed, probed), device=device, dtype=precision) / probed**2
    largest = _LARGEST_PATCHES if model.window == 1 else max(_LARGEST_CELL, model.window)
    sides = [model.window]
    while 2 * sides[-1] <= largest:
        sides.append(2 * sides[-1])

    def pass_bytes(side: int) -> float:
        return taken * (side + 2 * model.halo) ** 2

    def burden(side: int) -> float:
        around = 1.0 if model.window == 1 else (1 + 2 * model.halo / side) ** 2
        return around * (_SLOW if device.type == "cpu" and pass_bytes(side) > _CACHED else 1.0)

    possible = [side for side in sides if pass_bytes(side) <= _MOST_BYTES] or sides[:1]
    cell = min(reversed(possible), key=burden)  # of equals the largest
    side = max(largest if model.window == 1 else LARGEST_SIDE, cell) // cell * cell
    return Cost(cell, pass_bytes(cell) if device.type == "cpu" else 0.0, side)


def part_bytes(side: int, threads: int, cost: Cost, *, bands: int, channels: int, halo: int) -> float:
    """What working on parts of a side takes, ``threads`` of them at a time: see ``core.streaming.run`` for how many there are."""
    seen, kept = (side + 2 * halo) ** 2 * bands * 4.0, side**2 * channels * 4.0
    reading = 1.3  # beside what is read: the same before it is filled up at the scene's edges, and which of it is valid
    return (threads + 2 + reading) * seen + (threads + 4) * kept + threads * cost.bytes


@dataclass(frozen=True, kw_only=True, eq=False)
class Wanted:
    """What is asked for.

    Args:
        area: of the scene.
        mask: pixels outside of it are nodata; None if all count.
        probabilities: whether they are a result, beside the classes.
    """

    area: Area
    mask: AreaMask | None = None
    probabilities: bool = False

    @classmethod
    def all_of(cls, scene: Scene) -> "Wanted":
        """Everything."""
        return cls(area=Area(0, 0, *scene.grid.shape), probabilities=True)


class SceneWorker:
    """Maps parts of a scene, see ``core.streaming.run.Worker``.

    Args:
        scene: with just the bands that the teller wants.
        teller: what tells classes.
        wanted: what is asked for.
        cell: pixels on a side of the squares that are computed at once, at multiples of it in the scene.
        values: of the classes, by their position.
    """

    def __init__(self, scene: Scene, teller: Teller, wanted: Wanted, *, cell: int, values: Sequence[int]) -> None:
        self.scene, self.teller, self.wanted, self.cell = scene, teller, wanted, cell
        place = wanted.area
        grid = scene.grid.part(place.column, place.row, place.width, place.height)
        self._hectares = row_hectares(grid) if grid.crs is not None and grid.crs.is_geographic else None
        self.values = np.array([0, *values], dtype=np.uint8 if max(values) <= np.iinfo(np.uint8).max else np.uint16)

    def read(self, part: Part) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:
        """Read all cells that hold pixels that are asked for, with their surroundings, and which pixels these are."""
        wanted = self._wanted(part)
        if not wanted.any():
            return None
        (top, bottom), (left, right) = self._cells(part)
        halo = self.teller.halo
        return read_padded(self.scene, top - halo, left - halo, bottom - top + 2 * halo, right - left + 2 * halo), wanted

    def _wanted(self, part: Part) -> NDArray[np.bool_]:
        rows, columns = part.rows, part.columns
        wanted = np.zeros((rows.last - rows.first, columns.last - columns.first), dtype=np.bool_)
        (top, bottom), (left, right) = self._asked(part)
        inside = wanted[top - rows.first : bottom - rows.first, left - columns.first : right - columns.first]
        inside[:] = True if self.wanted.mask is None else self.wanted.mask.read(top, left, bottom - top, right - left)
        return wanted

    def _asked(self, part: Part) -> tuple[tuple[int, int], tuple[int, int]]:
        """First and last row, and column, of a part that lie in the area."""
        area = self.wanted.area
        return (
            (max(part.rows.first, area.row), min(part.rows.last, area.row + area.height)),
            (max(part.columns.first, area.column), min(part.columns.last, area.column + area.width)),
        )

    def _cells(self, part: Part) -> tuple[tuple[int, int], tuple[int, int]]:
        """The same of the cells that these touch. A cell that the scene's edge cuts ends with the window that it cuts."""
        window, cell = self.teller.window, self.cell
        rows, columns = (
            (first // cell * cell, min(-(-last // cell) * cell, -(-size // window) * window))
            for (first, last), size in zip(self._asked(part), self.scene.grid.shape, strict=True)
        )
        return rows, columns

    def compute(self, data: tuple[NDArray[np.float32], NDArray[np.bool_]] | None, part: Part) -> NDArray[np.float32]:
        """Return (channels, height, width) as the teller gives them; NaN where a pixel is not valid or not asked for."""
        rows, columns = part.rows, part.columns
        shape = rows.last - rows.first, columns.last - columns.first
        told = np.full((self.teller.channels, *shape), np.nan, dtype=np.float32)
        if data is None:
            return told
        values, wanted = data
        (top, bottom), (left, right) = self._cells(part)
        halo = self.teller.halo
        for row in range(top, bottom, self.cell):
            for column in range(left, right, self.cell):
                height, width = min(self.cell, bottom - row), min(self.cell, right - column)
                used = tuple(
                    slice(max(start, tile.first), min(start + size, tile.last))
                    for start, size, tile in ((row, height, rows), (column, width, columns))
                )
                target = tuple(
                    slice(u.start - tile.first, u.stop - tile.first) for u, tile in zip(used, (rows, columns), strict=True)
                )
                looked = values[:, row - top :, column - left :][:, : height + 2 * halo, : width + 2 * halo]
                source = tuple(slice(u.start - start, u.stop - start) for u, start in zip(used, (row, column), strict=True))
                core = looked[:, halo : halo + height, halo : halo + width][:, *source]
                valid = np.isfinite(core).all(axis=0) & wanted[target]
                if valid.any():
                    found = self.teller(np.ascontiguousarray(looked))[:, *source]
                    told[:, *target] = np.where(valid, found, np.nan)
        return told

    def finish(self, values: NDArray[np.float32], area: Area) -> Finished:
        """Return class values, probabilities if there are any, and as facts pixels, summed confidence and area of each class.

        The area in hectares is told where pixels of different rows differ in it, which is where the CRS is geographic.
        """
        valid = np.isfinite(values[0])
        index = np.where(valid, values[0], -1).astype(np.int64)
        found, classes = index[valid], len(self.values) - 1
        arrays: dict[str, NDArray[np.generic]] = {MAP: self.values[index + 1][None]}
        facts: dict[str, list[float]] = {"pixels": np.bincount(found, minlength=classes).tolist()}
        if self._hectares is not None:
            weights = np.broadcast_to(self._hectares[area.row : area.row + area.height, None], valid.shape)[valid]
            facts["hectares"] = np.bincount(found, weights=weights, minlength=classes).tolist()
        if len(values) > 1:
            if self.wanted.probabilities:
                arrays[PROBABILITIES] = values[1:]
            facts["confidence"] = np.bincount(found, weights=values[1][valid].astype(np.float64), minlength=classes).tolist()
        return Finished(arrays, facts)


@dataclass(frozen=True, kw_only=True, eq=False)
class MapJob:
    """Maps a scene with a model: see ``core.streaming.run.Job``.

    Args:
        scene: to map; it is sent to other processes by what it is read from.
        bands: positions of the model's bands in it.
        model: file of the classifier.
        encoder: that a file of adapters belongs to.
        wanted: what is asked for.
        cell: see ``cost_of``.
        device: that computes.
        precision: of the networks.
    """

    scene: Scene
    bands: Sequence[int]
    model: Path
    encoder: Path | None
    wanted: Wanted
    cell: int
    device: torch.device
    precision: torch.dtype

    def open(self) -> SceneWorker:
        """Load the model."""
        model = load_classifier(self.model, None if self.encoder is None else read_encoder(self.encoder))
        teller = ModelTeller(model, self.device, self.precision)
        values = [info.value for info in model.info.classes]
        scene = self.scene.with_bands(self.bands)
        return SceneWorker(scene, teller, self.wanted, cell=self.cell, values=values)


@dataclass(frozen=True, eq=False)
class _Ready:
    """A job whose worker is there already."""

    worker: SceneWorker

    def open(self) -> SceneWorker:
        return self.worker


class MapInMemory:
    """A sink that holds class positions (H, W), -1 where nodata, and probabilities (2, H, W), NaN where nodata."""

    done = 0

    def __init__(self, shape: tuple[int, int]) -> None:
        self.index = np.full(shape, -1, dtype=np.int32)
        self.probabilities = np.full((2, *shape), np.nan, dtype=np.float32)

    def write(self, part: int, area: Area, finished: Finished) -> None:
        """Keep what a part finished, whose class values are positions and 1."""
        place = slice(area.row, area.row + area.height), slice(area.column, area.column + area.width)
        self.index[place] = finished.arrays[MAP][0].astype(np.int32) - 1
        if PROBABILITIES in finished.arrays:
            self.probabilities[:, *place] = finished.arrays[PROBABILITIES]


def map_in_memory(
    scene: Scene, teller: Teller, classes: int, *, cell: int, tick: Callable[[int, int], None] | None = None
) -> MapInMemory:
    """Map a whole scene, of the teller's bands, and hold the result."""
    wanted = Wanted.all_of(scene)
    plan = Plan(image=scene.grid.shape, area=wanted.area, side=max(256 // cell, 1) * cell, multiple=cell)
    sink = MapInMemory(scene.grid.shape)
    run(plan, _Ready(SceneWorker(scene, teller, wanted, cell=cell, values=range(1, classes + 1))), sink, tick=tick)
    return sink


def predict(
    scene: Scene,
    model: Classifier,
    bands: list[int],
    *,
    device: torch.device,
    precision: torch.dtype = torch.float32,
    tile: int | None = None,
    progress: bool = False,
) -> Prediction:
    """Map a scene. The result does not depend on the size of the tiles: each is read with the model's reach around it.

    Args:
        scene: to map.
        model: a fitted one.
        bands: positions of the model's bands in the scene.
        device: to compute on.
        precision: of the networks; the spectra's transform stays in float32.
        tile: pixels on a side; made a multiple of the model's window. Default: as `geovit classify` chooses.
        progress: show a bar.

    Raises:
        ValueError: no pixel of the scene is valid in all of the model's bands.
    """
    teller = ModelTeller(model, device, precision)
    cell = (
        cost_of(model, device=device, precision=precision).cell if tile is None else max(tile // model.window, 1) * model.window
    )
    chosen = scene.with_bands(bands)
    warn_if_far(chosen, Wanted.all_of(scene).area, model)
    with Progress(console=Console(stderr=True), transient=True, disable=not progress) as bar:  # standard output is for results
        task = bar.add_task("Mapping", total=None)
        found = map_in_memory(
            chosen, teller, len(model.info.classes), cell=cell, tick=lambda done, of: bar.update(task, completed=done, total=of)
        )
    if (found.index < 0).all():
        raise ValueError(f"{scene.path}: no pixel is valid in all of the model's bands")
    return Prediction(found.index, *found.probabilities)
