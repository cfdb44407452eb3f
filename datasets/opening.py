"""One entry for every kind of scene."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from affine import Affine
from rasterio.io import DatasetReader

from .grid import Grid
from .matlab import ArraySource, load_array, split_key
from .raster import BandTags, RasterSource, band_tags, data_file, grid_of, open_raster, require_whole
from .scene import Numbers, Scene, scene_of


@dataclass(frozen=True)
class Opener:
    """A kind of scene.

    Args:
        kind: in words, for messages.
        claims: whether a source, as the user wrote it, is of this kind: told by its content where it has one, and without an
            error for what is not there or is anything else.
        open: opens what is claimed; FileNotFoundError and ValueError in one line for what turns out not to be in order.
    """

    kind: str
    claims: Callable[[str], bool]
    open: Callable[[str], Scene]


def open_scene(source: str | Path) -> Scene:
    """Open a GeoTIFF, COG, VRT or other GDAL raster, an ENVI data file or its ``.hdr``, or a MATLAB file.

    Of a ``.mat`` file the only 3-D numeric array (rows, columns, bands) is taken; ``scene.mat:key`` names one of several.
    Bands are dropped that the file's bad-band list marks (``bbl``, 0 = bad), that hold no valid value, or that are alpha.
    If only some of the kept bands have a wavelength, the scene counts as one without wavelengths, with a warning.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a raster, damaged, complex values, no band, or no valid value at all.
    """
    name = str(source)
    return next(opener for opener in OPENERS if opener.claims(name)).open(name)


def _open_matlab(name: str) -> Scene:
    path, key = split_key(name) or (name, None)
    array = load_array(
        path, key, wanted="3-D array (rows, columns, bands)", fits=lambda shape: len(shape) == 3 and 0 not in shape
    )
    height, width, count = array.shape
    grid = Grid(height, width, None, Affine.identity())
    numbers = Numbers(array.dtype, marked=False)
    return scene_of(name, grid, BandTags(None, None, None), ArraySource(array), count, nodata=None, numbers=numbers)


def _open_gdal(name: str) -> Scene:
    path = data_file(name)
    with open_raster(path) as src:
        if src.count == 0:
            parts = ", ".join(src.subdatasets[:8])
            raise ValueError(f"{path}: no raster bands" + (f"; it holds {parts}: name one" if parts else ""))
        if any(dtype.startswith("complex") for dtype in src.dtypes):
            raise ValueError(f"{path}: data type {src.dtypes[0]}, expected real numbers")
        require_whole(src)
        source = RasterSource.of(path, src)
        numbers = gdal_numbers(src, source)
        return scene_of(path, grid_of(src), band_tags(src), source, src.count, nodata=src.nodata, numbers=numbers)


def gdal_numbers(src: DatasetReader, source: RasterSource) -> Numbers:
    """What a GDAL dataset says of its numbers."""
    tags = {key.lower(): value for key, value in src.tags().items()}
    scalings = tuple(dict.fromkeys(zip(src.scales, src.offsets, strict=True)))
    return Numbers(np.dtype(src.dtypes[0]), any(source.masked), scalings, tags)


# The first that claims a source opens it; GDAL takes what no other does. One of these knows nothing of the others.
OPENERS = (
    Opener("MATLAB file", lambda name: split_key(name) is not None, _open_matlab),
    Opener("raster that GDAL reads", lambda name: True, _open_gdal),
)
