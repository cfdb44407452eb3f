"""Each reader on one file: what a command of the tool would read of it."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.windows import Window

from geovit.datasets import Grid, Scene, open_image, open_scene, open_volume, read_labels
from geovit.datasets.cases import open_cases
from geovit.datasets.cases.reading import read_case
from geovit.datasets.classes import make_classes
from geovit.datasets.collections import open_collection

GRID = Grid(24, 30, CRS.from_epsg(32633), Affine(10.0, 0.0, 4e5, 0.0, -10.0, 5.8e6))


def _look(scene: Scene) -> None:
    side = max(1, min(64, math.isqrt(2**22 // scene.num_bands)))
    height, width = scene.grid.shape
    for row, column in ((0, 0), (height // 2, width // 2), (max(0, height - side), max(0, width - side))):
        scene.read(Window(column, row, min(side, width - column), min(side, height - row)))
    assert scene.wavelengths is None or ((np.diff(scene.wavelengths) >= 0).all() and (scene.wavelengths > 0).all())


def _collection(path: Path) -> None:
    found = open_collection(path, keep_mib=0)
    for place in found.places[:2]:
        found.read(place, window=Window(0, 0, 8, 8))


def _model(path: Path) -> None:
    from geovit.apps.hyperspectral.model import load_classifier

    load_classifier(path)


READERS: dict[str, Callable[[Path], object]] = {
    "scene": lambda path: _look(open_scene(path)),
    "labels": lambda path: read_labels(path, GRID),
    "classes": lambda path: make_classes([1, 2, 3], {}, {}, path),
    "image": open_image,
    "volume": open_volume,
    "cases": lambda path: [read_case(case) for case in open_cases(path).cases],
    "collection": _collection,
    "zarr": _collection,
    "model": _model,
}
