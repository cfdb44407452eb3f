"""From a scene to one feature vector for each token."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from ...core.precision import Precision
from ...core.sensors.model import FoundationModel
from ...datasets import Grid
from .arrays import embed_array
from .embedder import Embedder, Tiling
from .features import LAST
from .parts import embed_whole
from .scenes import open_sensor_scene

if TYPE_CHECKING:
    import xarray


@dataclass(frozen=True, eq=False)
class Embedding:
    """Features of a scene.

    Args:
        values: float32 (rows, columns, features); NaN where there is no data.
        grid: of the tokens: the scene's, with pixels ``patch`` times as large; the last ones may reach beyond the scene.
        sensor: its name.
        bands: names, or wavelengths.
        patch: pixels of the scene on a side of a token.
    """

    values: NDArray[np.float32]
    grid: Grid
    sensor: str
    bands: tuple[str, ...]
    patch: int


def token_grid(grid: Grid, patch: int) -> Grid:
    """Return the grid of the tokens of a scene; a token that the scene's edge cuts counts."""
    t = grid.transform
    scaled = Affine(t.a * patch, t.b * patch, t.c, t.d * patch, t.e * patch, t.f)
    return Grid(-(-grid.height // patch), -(-grid.width // patch), grid.crs, scaled)


@overload
def embed(
    scene: str | Path,
    model: str | Path | FoundationModel | None = ...,
    *,
    sensor: str | None = ...,
    gsd: float | None = ...,
    layer: str = ...,
    tiling: Tiling | None = ...,
    device: str = ...,
    precision: Precision = ...,
) -> Embedding: ...


@overload
def embed(
    scene: "xarray.DataArray",
    model: str | Path | FoundationModel | None = ...,
    *,
    sensor: str | None = ...,
    gsd: float | None = ...,
    layer: str = ...,
    tiling: Tiling | None = ...,
    device: str = ...,
    precision: Precision = ...,
) -> "xarray.DataArray": ...


def embed(
    scene: "str | Path | xarray.DataArray",
    model: str | Path | FoundationModel | None = None,
    *,
    sensor: str | None = None,
    gsd: float | None = None,
    layer: str = LAST,
    tiling: Tiling | None = None,
    device: str = "auto",
    precision: Precision = "auto",
) -> "Embedding | xarray.DataArray":
    """Embed a scene: one feature vector for each token.

    Args:
        scene: a raster, as for ``open_scene``; or an xarray.DataArray, see ``geovit.apps.foundation.arrays.embed_array``, whose
            features are lazy if it is.
        model: what `geovit pretrain` wrote, or its file, or a published checkpoint. Default: the small encoder that comes with
            geovit.
        sensor: whose table tells bands and scale. Default: wavelengths of the file, and reflectance.
        gsd: metres on the ground from a pixel to the next. Default: the file's, else the sensor's.
        layer: depth of the features: last, a number of blocks, several joined by commas, or all.
        tiling: how the scene is cut.
        device: auto, cpu, cuda, cuda:1 or mps.
        precision: auto, fp32, bf16 or fp16.

    Returns:
        Features in memory; `geovit embed` writes scenes of any size. Of an array an array (feature, y, x).

    Raises:
        FileNotFoundError: no such file.
        ValueError: anything wrong with the scene or the model, in one line.
    """
    if not isinstance(scene, str | Path):
        return embed_array(
            scene, model, sensor=sensor, gsd=gsd, layer=layer, tiling=tiling or Tiling(), device=device, precision=precision
        )
    embedder = Embedder(model, layer=layer, tiling=tiling or Tiling(), device=device, precision=precision)
    opened = open_sensor_scene(scene, sensor, gsd=gsd)
    values = embed_whole(embedder, opened)
    return Embedding(
        values, token_grid(opened.grid, embedder.patch), opened.sensor, tuple(band.name for band in opened.bands), embedder.patch
    )
