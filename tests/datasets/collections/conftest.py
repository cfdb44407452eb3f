"""Small folders of co-registered rasters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write an array (bands, height, width) at the same ground, whatever its pixels, below ``tmp_path``."""

    def raster(name: str, array: NDArray[Any], *, pitch: float = 10.0, shift: float = 0.0, **options: Any) -> Path:
        tags, names = options.pop("tags", {}), options.pop("names", ())
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = {"count": array.shape[0], "height": array.shape[1], "width": array.shape[2], "dtype": array.dtype}
        place = {"crs": "EPSG:32633", "transform": Affine(pitch, 0.0, 4e5 + shift, 0.0, -pitch, 5.8e6)}
        with rasterio.open(path, "w", driver="GTiff", **(shape | place | options)) as dst:
            dst.write(array)
            dst.update_tags(**tags)
            for number, text in enumerate(names, start=1):
                dst.set_band_description(number, text)
        return path

    return raster


@pytest.fixture
def numbers() -> Callable[..., NDArray[Any]]:
    """Make numbers of Sentinel-2 since baseline 04.00: dark and bright pixels in all bands, all different."""

    def make(bands: int, side: int = 32, seed: int = 0) -> NDArray[np.uint16]:
        return np.random.default_rng(seed).integers(1010, 6000, (bands, side, side)).astype(np.uint16)

    return make


@pytest.fixture
def pair(write, numbers, tmp_path) -> Path:
    """Two places, seen by Sentinel-2 at 10 m and by Sentinel-1 at 20 m, with labels."""
    for seed, place in enumerate(("a", "b")):
        write(f"S2L2A/{place}.tif", numbers(12, seed=seed))
        radar = np.random.default_rng(seed).uniform(-25, 0, (2, 16, 16)).astype(np.float32)
        write(f"S1RTC/{place}.tif", radar, pitch=20.0, shift=1e-9)
        write(f"LULC/{place}.tif", np.full((1, 32, 32), seed + 1, np.uint8))
        write(f"DEM/{place}.tif", np.zeros((1, 32, 32), np.int16), shift=3.0)
    return tmp_path
