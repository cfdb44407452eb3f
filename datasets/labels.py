"""Labels of a scene, from rasters, vector files or MATLAB arrays, brought onto the scene's grid."""

import logging
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.warp import Resampling, reproject, transform_bounds

from .classes import MAX_VALUE, ClassInfo, Color, make_classes
from .grid import Grid
from .matlab import load_array, split_key
from .raster import GDAL_ERRORS, NotARasterError, data_file, grid_of, open_raster, quiet_georeference, reason
from .vector import NotAVectorError, looks_like_vector, rasterize

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Labels:
    """Labelled pixels of a scene.

    ``index`` is int32 (H, W): -1 where unlabelled, else the position in ``classes``, which are sorted by value and each have
    at least one pixel.
    """

    index: NDArray[np.int32]
    classes: tuple[ClassInfo, ...]

    def counts(self) -> NDArray[np.int64]:
        """Labelled pixels per class."""
        return np.bincount(self.index[self.index >= 0], minlength=len(self.classes))


@dataclass(frozen=True)
class _Values:
    """Class values on a grid, 0 = unlabelled, and what their file says about them."""

    values: NDArray[np.int32]
    names: dict[int, str]
    colors: dict[int, Color]


def read_labels(source: str | Path, grid: Grid, *, field: str | None = None, classes: Path | None = None) -> Labels:
    """Read labels onto ``grid``.

    Args:
        source: a single-band raster on the same grid or, with a warning, any other (nearest neighbour); polygons or points in
            a vector file (``file.gpkg:layer`` names one of several layers); a ``.mat`` file (``labels.mat:key``) whose array
            has the scene's shape. 0 and nodata are unlabelled. Values may be any integers in 1..65535.
        grid: the scene's.
        field: attribute of the vector file with the class; needed when several could be it.
        classes: CSV file value,name[,#rrggbb] whose names and colours win over those of the labels.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not readable, values that are no class values, unknown field, another place than the scene, no labelled
            pixel, or no way to tell where the labels lie.
    """
    name = str(source)
    found = _read(name, grid, field)
    present = np.unique(found.values[found.values > 0])
    if not len(present):
        raise ValueError(f"{name}: no labelled pixel on the scene")
    index = np.searchsorted(present, found.values).astype(np.int32)
    index[found.values == 0] = -1
    return Labels(index, make_classes(present.tolist(), found.names, found.colors, classes))


def _read(name: str, grid: Grid, field: str | None) -> _Values:
    matlab = split_key(name)
    if matlab is not None:
        return _read_matlab(*matlab, grid)
    if looks_like_vector(name):
        return _Values(*rasterize(name, grid, field), {})
    try:
        with open_raster(data_file(name)) as src:
            return _read_raster(src, grid)
    except NotARasterError:
        try:
            return _Values(*rasterize(name, grid, field), {})
        except NotAVectorError as error:
            raise ValueError(f"{name}: neither a raster nor a vector file that GDAL can open") from error


def _read_matlab(path: str, key: str | None, grid: Grid) -> _Values:
    wanted = f"2-D array of the scene's shape {grid.shape}"
    array = load_array(path, key, wanted=wanted, fits=lambda shape: shape == grid.shape)
    return _Values(_class_values(array, array == 0, path), {}, {})


def _read_raster(src: DatasetReader, grid: Grid) -> _Values:
    path = src.name
    if src.count != 1:
        raise ValueError(f"{path}: {src.count} bands, expected labels of one band")
    source_grid = grid_of(src)
    if not grid.matches(source_grid):
        _check_overlap(path, source_grid, grid)
    raw = src.read(1)
    values = _class_values(raw, (raw == 0) | (src.read_masks(1) == 0), path)
    if not grid.matches(source_grid):
        values = _resample(values, source_grid, grid, path)
    return _Values(values, _category_names(src), _colors(src, values))


def _class_values(raw: NDArray[Any], unlabelled: NDArray[np.bool_], path: str) -> NDArray[np.int32]:
    if raw.dtype.kind not in "iufb":
        raise ValueError(f"{path}: data type {raw.dtype}, expected class values")
    if raw.dtype.kind == "f":
        unlabelled = unlabelled | np.isnan(raw)
    labelled = raw[~unlabelled]
    wrong = labelled[(labelled < 1) | (labelled > MAX_VALUE) | (labelled != np.floor(labelled))]
    if len(wrong):
        raise ValueError(f"{path}: {len(wrong)} pixels with values such as {wrong[0]}, expected integers in 1..{MAX_VALUE}")
    return np.where(unlabelled, 0, raw).astype(np.int32)


def _check_overlap(path: str, source: Grid, grid: Grid) -> None:
    if source.crs is None or grid.crs is None:
        if source.shape == grid.shape:
            return
        lacking = "labels" if source.crs is None else "scene"
        raise ValueError(f"{path}: labels of shape {source.shape} for a scene of {grid.shape}, and no CRS in the {lacking}")
    try:
        box = transform_bounds(source.crs, grid.crs, *source.bounds)
    except GDAL_ERRORS as error:
        raise ValueError(f"{path}: labels in {source.crs} cannot be placed in {grid.crs} ({reason(error)})") from error
    grid.require_overlap(box, path)


def _resample(values: NDArray[np.int32], source: Grid, grid: Grid, path: str) -> NDArray[np.int32]:
    if source.crs is None or grid.crs is None:
        logger.warning("%s: one of labels and scene has no CRS; their pixels are paired by position", path)
        return values
    logger.warning("%s: labels on another grid, resampled to the scene's by nearest neighbour", path)
    target = np.zeros(grid.shape, dtype=np.int32)
    reproject(
        values, target, src_transform=source.transform, src_crs=source.crs, dst_transform=grid.transform, dst_crs=grid.crs,
        src_nodata=0, dst_nodata=0, resampling=Resampling.nearest,
    )  # fmt: skip
    return target


def _category_names(src: DatasetReader) -> dict[int, str]:
    # rasterio has no call for category names; a virtual copy in memory spells out what every driver knows of them.
    virtual = f"/vsimem/{uuid.uuid4().hex}.vrt"
    with quiet_georeference():
        rasterio.shutil.copy(src, virtual, driver="VRT")
        with rasterio.open(virtual) as copy:
            text = copy.tags(ns="xml:VRT")["xml:VRT"]
    rasterio.shutil.delete(virtual, driver="VRT")
    # The text is GDAL's own, not the file's.
    names = ET.fromstring(text).findall("./VRTRasterBand[@band='1']/CategoryNames/Category")  # noqa: S314
    return {value: name.text for value, name in enumerate(names) if name.text}


def _colors(src: DatasetReader, values: NDArray[np.int32]) -> dict[int, Color]:
    try:
        table = src.colormap(1)
    except ValueError:  # rasterio's way to say that there is none
        return {}
    return {value: table[value][:3] for value in np.unique(values).tolist() if value in table}
