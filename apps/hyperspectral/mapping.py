"""From a model to a map of the whole scene, tile by tile."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ...core.precision import autocast
from ...datasets import Scene
from .model import Classifier
from .samples import read_padded

logger = logging.getLogger(__name__)

# Beyond these, spectra are of another radiometry and not of another mixture of classes.
_FAR = 3.0  # standard deviations of the training pixels between the means
_FLAT = 1 / 30  # of their standard deviation: reflectance of 0..1 or 0..100 where the model learned 0..10000


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of each pixel of a scene.

    ``index`` is int32 (H, W), the class or -1 where nodata; ``confidence`` and ``entropy`` are float32 (H, W), the largest
    probability and the entropy divided by that of equal probabilities (0 sure, 1 no idea), NaN where nodata.
    """

    index: NDArray[np.int32]
    confidence: NDArray[np.float32]
    entropy: NDArray[np.float32]


def tiles_of(
    scene: Scene, *, side: int, halo: int = 0, window: int = 1, progress: bool = False
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield the rows and columns of a tile's core and its raw values (1, bands, height, width) with the halo around it.

    A core that the scene's edge cuts is filled up with nodata to whole windows, and no further.
    """
    height, width = scene.grid.shape
    corners = [(row, column) for row in range(0, height, side) for column in range(0, width, side)]
    bar = Console(stderr=True)  # standard output is for results
    for row, column in track(corners, "Mapping", disable=not progress, transient=True, console=bar):
        rows, columns = slice(row, min(row + side, height)), slice(column, min(column + side, width))
        size = (-(-(part.stop - part.start) // window) * window + 2 * halo for part in (rows, columns))
        yield rows, columns, torch.from_numpy(read_padded(scene, row - halo, column - halo, *size))[None]


@torch.inference_mode()
def predict(
    scene: Scene,
    model: Classifier,
    bands: list[int],
    *,
    device: torch.device,
    precision: torch.dtype = torch.float32,
    tile: int = 128,
    progress: bool = False,
) -> Prediction:
    """Map a scene. The result does not depend on the size of the tiles: each is read with the model's reach around it.

    Args:
        scene: to map.
        model: a fitted one.
        bands: positions of the model's bands in the scene.
        device: to compute on.
        precision: of the networks; the spectra's transform stays in float32.
        tile: pixels on a side; made a multiple of the model's window.
        progress: show a bar.
    """
    model = model.eval().to(device)
    side = max(tile // model.window, 1) * model.window
    index = np.full(scene.grid.shape, -1, dtype=np.int32)
    confidence, entropy = (np.full(scene.grid.shape, np.nan, dtype=np.float32) for _ in range(2))
    moments = _Moments(len(bands))
    for rows, columns, values in tiles_of(scene, side=side, halo=model.halo, window=model.window, progress=progress):
        values = values[:, bands]
        size = rows.stop - rows.start, columns.stop - columns.start
        core = values[0, :, model.halo :, model.halo :][:, : size[0], : size[1]]
        valid = core.isfinite().all(0)
        if not valid.any():
            continue
        moments.add(core[:, valid])
        with autocast(device, precision):
            probabilities = model(values.to(device))[0].cpu()
        cut = model.halo - (values.shape[-1] - probabilities.shape[-1]) // 2
        probabilities = probabilities[:, cut:, cut:][:, : size[0], : size[1]]
        top, chosen = probabilities.clamp_max(1).max(0)  # rounding goes beyond
        spread = (torch.special.entr(probabilities).sum(0) / np.log(len(probabilities))).clamp_max(1)
        mask = valid.numpy()
        index[rows, columns] = np.where(mask, chosen.numpy(), -1)
        confidence[rows, columns] = np.where(mask, top.numpy(), np.nan)
        entropy[rows, columns] = np.where(mask, spread.numpy(), np.nan)
    _warn_if_far(moments, model, scene)
    return Prediction(index, confidence, entropy)


def cluster(scene: Scene, clusters: int, *, seed: int, sample: int = 20_000, progress: bool = False) -> NDArray[np.int32]:
    """Group pixels of similar spectra by k-means: cluster 0.. of each pixel (H, W), brightest first, -1 where nodata.

    Bands are standardised and rotated onto the principal components that hold 99.9 % of the variance. Centres are found on a
    random sample of valid pixels.

    Raises:
        ValueError: fewer valid pixels than clusters.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    share = min(1.0, 2 * sample / (scene.grid.height * scene.grid.width))
    random = np.random.default_rng(seed)
    parts = [_valid(values)[0] for _, _, values in tiles_of(scene, side=256)]
    spectra = np.concatenate([part[random.random(len(part)) < share] for part in parts])
    if len(spectra) < clusters:
        raise ValueError(f"{scene.path}: {len(spectra)} valid pixels sampled, too few for {clusters} clusters")
    spectra = random.permutation(spectra)[:sample]
    kmeans = KMeans(clusters, n_init=4, random_state=seed)
    pipeline = make_pipeline(StandardScaler(), PCA(0.999, svd_solver="full"), kmeans).fit(spectra)
    found = pipeline.predict(spectra)
    level = [spectra[found == k].mean() for k in range(clusters)]
    rank = np.argsort(np.argsort(level)[::-1])
    index = np.full(scene.grid.shape, -1, dtype=np.int32)
    for rows, columns, values in tiles_of(scene, side=256, progress=progress):
        pixels, valid = _valid(values)
        if len(pixels):
            index[rows, columns][valid] = rank[pipeline.predict(pixels)]
    return index


def _valid(values: Tensor) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    valid = values[0].isfinite().all(0).numpy()
    return values[0].numpy()[:, valid].T, valid


class _Moments:
    """Mean and standard deviation of each band over all pixels added, in float64."""

    def __init__(self, bands: int) -> None:
        self.count = 0
        self.sum = torch.zeros(bands, dtype=torch.float64)
        self.squares = torch.zeros(bands, dtype=torch.float64)

    def add(self, pixels_CN: Tensor) -> None:
        self.count += pixels_CN.shape[1]
        self.sum += pixels_CN.double().sum(1)
        self.squares += pixels_CN.double().square().sum(1)

    @property
    def mean(self) -> Tensor:
        return self.sum / self.count

    @property
    def std(self) -> Tensor:
        return (self.squares / self.count - self.mean.square()).clamp_min(0).sqrt()


def _warn_if_far(moments: _Moments, model: Classifier, scene: Scene) -> None:
    if not moments.count:
        raise ValueError(f"{scene.path}: no pixel is valid in all of the model's bands")
    transform = model.members[0].transform.cpu()
    distance = float(((moments.mean - transform.band_mean) / transform.band_std).abs().median())
    spread = float((moments.std / transform.band_std).median())
    if distance > _FAR or spread < _FLAT:
        logger.warning(
            "%s: its spectra are unlike the model's training pixels: the mean %.1f standard deviations off, the spread %.2g times"
            " as large (medians over bands); check scale and offset, the map is doubtful",
            scene.path,
            distance,
            spread,
        )
