"""Small scenes, and recipes that are fitted in a second."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.windows import Window

from geovit.apps.hyperspectral.lola_specvit import LolaSpecViTConfig
from geovit.apps.hyperspectral.model import Classifier
from geovit.apps.hyperspectral.recipe import Recipe, TrainingConfig
from geovit.apps.hyperspectral.samples import LabelledScene
from geovit.apps.hyperspectral.spectra import SpectralTransformConfig
from geovit.apps.hyperspectral.spectral_swin import SpectralSwinConfig
from geovit.apps.hyperspectral.training import fit, tiling
from geovit.datasets import (
    ClassInfo,
    Grid,
    Labels,
    Scene,
    SyntheticScene,
    default_color,
    open_scene,
    read_labels,
    synthesize_scene,
)
from geovit.datasets.scene import Numbers

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Memory:
    """Pixels (bands, height, width) that no file holds."""

    cube: NDArray[np.float32]
    block: tuple[int, int] = (64, 64)

    def read(self, bands: Sequence[int], window: Window | None) -> NDArray[np.float32]:
        rows, columns = (slice(None), slice(None)) if window is None else window.toslices()
        return self.cube[[band - 1 for band in bands], rows, columns].copy()


def _scene(cube: NDArray[np.float32], wavelengths: NDArray[np.float64] | None = None) -> Scene:
    count, height, width = cube.shape
    grid = Grid(height, width, CRS.from_epsg(32633), Affine(30.0, 0.0, 4e5, 0.0, -30.0, 5.8e6))
    return Scene(
        "memory", grid, tuple(range(1, count + 1)), wavelengths, None, {}, None, Memory(cube), Numbers(cube.dtype, False)
    )


def _labels(index: NDArray[np.int_], values: Sequence[int] | None = None) -> Labels:
    count = int(index.max()) + 1
    values = range(1, count + 1) if values is None else values
    classes = tuple(ClassInfo(value, f"class {value}", default_color(value)) for value in values)
    return Labels(index.shape, np.flatnonzero(index >= 0), index[index >= 0].astype(np.int32), classes)


@pytest.fixture(scope="session")
def make_scene() -> Callable[..., Scene]:
    """Make a scene of an array (bands, height, width)."""
    return _scene


@pytest.fixture(scope="session")
def make_labels() -> Callable[..., Labels]:
    """Make labels of positions (height, width), -1 where unlabelled, and the values of the classes."""
    return _labels


@pytest.fixture(scope="session")
def tiny() -> Recipe:
    """A dense network of a few thousand parameters."""
    return Recipe(
        spectral_swin=SpectralSwinConfig(
            dim=16, depth=2, heads=2, window=4, channels=(4, 8), kernels=(5, 3), strides=(4, 2), spatial=(1, 1)
        ),
        transform=SpectralTransformConfig(floor=0.1),
        training=TrainingConfig(
            members=1,
            steps=6,
            batch=4,
            crop=8,
            lr=5e-3,
            noise=0.1,
            band_dropout=0.1,
            gain=0.1,
            validation=0.2,
            block=8,
            check_every=3,
            patience=5,
        ),
    )


@pytest.fixture(scope="session")
def tiny_patches() -> Recipe:
    """A patch network of a few thousand parameters."""
    return Recipe(
        network="lola_specvit",
        lola_specvit=LolaSpecViTConfig(
            patch=7, dim=8, depths=(1, 1), heads=(2, 2), mlp_ratio=2.0, rank=2, alpha=4.0, train="all"
        ),
        transform=SpectralTransformConfig(shape=False, components=5, floor=1e-6),
        training=TrainingConfig(members=1, steps=3, batch=4, lr=1e-3, validation=0.2, block=8, check_every=3),
    )


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> SyntheticScene:
    """A scene with nodata, bad bands and unsorted wavelengths, whose sides are no multiples of a window."""
    return synthesize_scene(tmp_path_factory.mktemp("synthetic"), height=50, width=71, bands=24, classes=3)


@pytest.fixture(scope="session")
def scene(files: SyntheticScene) -> Scene:
    return open_scene(files.scene)


@pytest.fixture(scope="session")
def labels(files: SyntheticScene, scene: Scene) -> Labels:
    return read_labels(files.labels, scene.grid)


@pytest.fixture(scope="session")
def labelled(scene: Scene, labels: Labels, tiny: Recipe, tiny_patches: Recipe) -> LabelledScene:
    tiles = tiling(tiny, tiny_patches)
    return LabelledScene(scene, labels, margin=tiles.margin, core=tiles.core)


@pytest.fixture(scope="session")
def write_labels(files: SyntheticScene) -> Callable[..., Path]:
    """Write the scene's labels with other values in places {value: (rows, columns)}, or those alone."""

    def write(path: Path, places: dict[int, tuple[slice, slice]], *, alone: bool = False) -> Path:
        with rasterio.open(files.labels) as src:
            values = src.read(1).astype(np.uint16) * (not alone)
            profile = {key: src.profile[key] for key in ("height", "width", "crs", "transform")}
        for value, place in places.items():
            values[place] = value
        with rasterio.open(path, "w", driver="GTiff", count=1, dtype="uint16", nodata=0, **profile) as dst:
            dst.write(values, 1)
        return path

    return write


def _fitted(scene: Scene, labelled: LabelledScene, recipe: Recipe) -> Classifier:
    return fit(scene, labelled, np.ones(len(labelled), dtype=np.bool_), recipe, seed=0, device=CPU)


@pytest.fixture(scope="session")
def model(scene: Scene, labelled: LabelledScene, tiny: Recipe) -> Classifier:
    """A dense network that has learned something."""
    return _fitted(scene, labelled, tiny)


@pytest.fixture(scope="session")
def patch_model(scene: Scene, labelled: LabelledScene, tiny_patches: Recipe) -> Classifier:
    model = _fitted(scene, labelled, tiny_patches)
    torch.manual_seed(0)
    for name, parameter in model.members.named_parameters():  # a few steps do not part the classes
        torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.35)
    return model
