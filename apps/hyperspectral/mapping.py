"""From a model to a map of a scene of any size, part by part."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from ...core.engines import EngineName
from ...core.memory import forward_bytes
from ...core.precision import autocast
from ...core.streaming.run import InMemory, Ready, run
from ...datasets import Scene
from .adaptation import read_encoder
from .model import Classifier, load_classifier
from .sampling import warn_if_far
from .working import LARGEST_SIDE, MAP, PROBABILITIES, Cost, SceneWorker, Teller, Wanted, plan_of

_LARGEST_CELL = 512
_LARGEST_PATCHES = 128  # of cells and parts of a patch network, which takes minutes for so many: a kill should not lose more
_CACHED = 1e8  # bytes of a forward pass; beyond, its tensors leave the caches and are pages that the system has to clear:
_SLOW = 1.6  # about what that costs (measured: 54 us a pixel in cells of 64, 88 in cells of 256, surroundings included)
_MOST_BYTES = 1e9  # of a forward pass
_PROBED = 16  # pixels on a side, from which the bytes of a forward pass are told


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of each pixel of a scene.

    ``index`` is int32 (H, W), the class or -1 where nodata; ``confidence`` and ``entropy`` are float32 (H, W), the largest
    probability and the entropy divided by that of equal probabilities (0 sure, 1 no idea), NaN where nodata.
    """

    index: NDArray[np.int32]
    confidence: NDArray[np.float32]
    entropy: NDArray[np.float32]


class ModelTeller:
    """A classifier as a teller: class, its probability, and the entropy divided by that of equal probabilities."""

    channels = 3

    def __init__(self, model: Classifier, device: torch.device, precision: torch.dtype) -> None:
        self.model, self.device, self.precision = model.eval().to(device), device, precision
        self.window, self.halo = model.window, model.halo

    @torch.inference_mode()
    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        # A copy by torch begins at a multiple of 64 bytes, which numpy does not promise: products may round otherwise there.
        x = torch.from_numpy(values)[None].clone(memory_format=torch.contiguous_format).to(self.device)
        with autocast(self.device, self.precision):
            probabilities: Tensor = self.model(x)[0].cpu()
        cut = [self.halo - (seen - given) // 2 for seen, given in zip(values.shape[1:], probabilities.shape[1:], strict=True)]
        height, width = (size - 2 * self.halo for size in values.shape[1:])
        probabilities = probabilities[:, cut[0] : cut[0] + height, cut[1] : cut[1] + width]
        top, chosen = probabilities.clamp_max(1).max(0)  # rounding goes beyond
        spread = (torch.special.entr(probabilities).sum(0) / np.log(len(probabilities))).clamp_max(1)
        return torch.stack([chosen.float(), top, spread]).numpy()


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
        engine: of an exported model.
    """

    scene: Scene
    bands: Sequence[int]
    model: Path
    encoder: Path | None
    wanted: Wanted
    cell: int
    device: torch.device
    precision: torch.dtype
    engine: EngineName | None = None

    def open(self) -> SceneWorker:
        """Load the model."""
        model = load_classifier(self.model, None if self.encoder is None else read_encoder(self.encoder), self.engine)
        teller = ModelTeller(model, self.device, self.precision)
        values = [info.value for info in model.info.classes]
        scene = self.scene.with_bands(self.bands)
        return SceneWorker(scene, teller, self.wanted, cell=self.cell, values=values)


def map_in_memory(
    scene: Scene, teller: Teller, classes: int, *, cell: int, tick: Callable[[int, int], None] | None = None
) -> dict[str, NDArray[Any]]:
    """Map a whole scene, of the teller's bands.

    Returns:
        ``MAP``, int32 (1, H, W), classes by number from 1, 0 where nodata; and ``PROBABILITIES``, float32 (2, H, W), if the
        teller tells them, NaN where nodata.
    """
    wanted = Wanted.all_of(scene, probabilities=teller.channels > 1)
    plan = plan_of(scene.grid.shape, wanted.area, side=max(256 // cell, 1) * cell, cell=cell, halo=teller.halo)
    told: dict[str, NDArray[Any]] = {MAP: np.empty((1, *plan.shape), np.int32)}
    if wanted.probabilities:
        told[PROBABILITIES] = np.empty((2, *plan.shape), np.float32)
    worker = SceneWorker(scene, teller, wanted, cell=cell, values=range(1, classes + 1))
    run(plan, Ready(worker), InMemory(told), tick=tick)
    return told


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
    if not found[MAP].any():
        raise ValueError(f"{scene.path}: no pixel is valid in all of the model's bands")
    return Prediction(found[MAP][0] - 1, *found[PROBABILITIES])
