"""Small rasters and vector files for the tests of ``datasets``."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning

from geovit.datasets import Grid

ORIGIN = (400000.0, 5800000.0)


@pytest.fixture
def grid() -> Grid:
    """24 x 30 pixels of 10 m in UTM 33N."""
    return Grid(24, 30, CRS.from_epsg(32633), Affine(10.0, 0.0, ORIGIN[0], 0.0, -10.0, ORIGIN[1]))


@pytest.fixture
def write_raster(tmp_path: Path, grid: Grid) -> Callable[..., Path]:
    """Write an array (C, H, W) or (H, W) and return the path; ``tags`` are those of each band, ``on`` the grid."""

    def write(
        name: str,
        array: NDArray[Any],
        *,
        tags: list[dict[str, str]] | None = None,
        imagery: list[dict[str, str]] | None = None,
        on: Grid | None = grid,
        **profile: Any,
    ) -> Path:
        cube = array if array.ndim == 3 else array[None]
        where = {} if on is None else {"crs": on.crs, "transform": on.transform}
        shape = {"count": cube.shape[0], "height": cube.shape[1], "width": cube.shape[2], "dtype": cube.dtype}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(tmp_path / name, "w", **({"driver": "GTiff"} | shape | where | profile)) as dst:
                dst.write(cube)
                for band, values in enumerate(tags or (), start=1):
                    dst.update_tags(band, **values)
                for band, values in enumerate(imagery or (), start=1):
                    dst.update_tags(band, ns="IMAGERY", **values)
        return tmp_path / name

    return write


@pytest.fixture
def cube() -> NDArray[np.float32]:
    """Five bands of 24 x 30 pixels, all different."""
    return np.random.default_rng(0).uniform(1, 100, (5, 24, 30)).astype(np.float32)
