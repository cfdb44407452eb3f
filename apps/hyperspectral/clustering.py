"""Groups of similar spectra, where nothing is known of what they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ...core.streaming.plan import Area
from ...core.weights import load_state, save_module
from ...datasets import AreaMask, Scene
from .sampling import sampled_spectra
from .working import LARGEST_SIDE, Cost, SceneWorker, Wanted

_CELL = 128
_PLACES = 64


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups around centres: a teller, see ``working.Teller``. The first group is the brightest.

    Args:
        mean, std: float32 (bands,), of the spectra.
        weight: float32 (groups, bands), and
        bias: (groups,): of standardised spectra the squared distance to each centre, but for what is the same for all of them.
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    channels = 1
    window = 1
    halo = 0

    @property
    def bands(self) -> int:
        """Number of bands."""
        return len(self.mean)

    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the group (1, height, width) of each spectrum of (bands, height, width)."""
        spectra = (values.reshape(len(values), -1) - self.mean[:, None]) / self.std[:, None]
        distance = self.weight @ spectra + self.bias[:, None]
        return np.asarray(distance.argmin(axis=0), dtype=np.float32).reshape(1, *values.shape[1:])

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        named = {"mean": self.mean, "std": self.std, "weight": self.weight, "bias": self.bias}
        save_module(path, {name: torch.from_numpy(values) for name, values in named.items()}, {"format": "geovit groups 1"})

    @classmethod
    def load(cls, path: Path) -> "Groups":
        """Read what ``save`` wrote."""
        tensors, _ = load_state(path)
        return cls(**{name: tensor.numpy() for name, tensor in tensors.items()})


def find_groups(
    scene: Scene, area: Area, clusters: int, *, seed: int, sample: int = 20_000, mask: AreaMask | None = None
) -> Groups:
    """Find centres by k-means on spectra of places spread over an area.

    Bands are standardised and rotated onto the principal components that hold 99.9 % of the variance.

    Raises:
        ValueError: fewer valid pixels than clusters.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    share = min(1.0, 2 * sample / min(area.height * area.width, _PLACES * 128**2))
    random = np.random.default_rng(seed)
    spread = sampled_spectra(scene, area, places=_PLACES, mask=mask)
    spectra = np.concatenate(
        [part[random.random(len(part)) < share] for part in spread] or [np.empty((0, scene.num_bands), np.float32)]
    )
    if len(spectra) < clusters:
        raise ValueError(f"{scene.path}: {len(spectra)} valid pixels sampled, too few for {clusters} clusters")
    spectra = random.permutation(spectra)[:sample]
    scaler = StandardScaler().fit(spectra)
    standard = scaler.transform(spectra)
    rotation = PCA(0.999, svd_solver="full").fit(standard)
    kmeans = KMeans(clusters, n_init=4, random_state=seed).fit(rotation.transform(standard))
    level = [spectra[kmeans.labels_ == k].mean() for k in range(clusters)]
    centres = kmeans.cluster_centers_[np.argsort(level)[::-1]].astype(np.float64)
    # |y - c|^2 - |y|^2 = |c|^2 - 2 c y, and y is a rotation of the standardised spectrum.
    weight = -2 * centres @ rotation.components_
    bias = (centres**2).sum(axis=1) - weight @ rotation.mean_
    return Groups(*(np.asarray(x, dtype=np.float32) for x in (scaler.mean_, scaler.scale_, weight, bias)))


def cost_of_groups(bands: int, clusters: int) -> Cost:
    """What telling groups takes, see ``mapping.cost_of``."""
    return Cost(_CELL, 4.0 * _CELL**2 * (3 * bands + 2 * clusters), LARGEST_SIDE)


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupJob:
    """Maps a scene by its groups: see ``core.streaming.run.Job``, and ``mapping.MapJob`` for the arguments."""

    scene: Scene
    groups: Path
    values: Sequence[int]
    wanted: Wanted

    def open(self) -> SceneWorker:
        """Read the groups."""
        groups = Groups.load(self.groups)
        return SceneWorker(self.scene, groups, self.wanted, cell=_CELL, values=self.values)
