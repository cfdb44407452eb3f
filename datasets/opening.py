"""One entry for every kind of scene."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from affine import Affine

from .band_tags import BandTags, band_tags
from .grid import Grid
from .matlab import ArraySource, load_array, split_key
from .mosaics import open_mosaic
from .products import is_emit, is_enmap, is_netcdf, is_prisma, open_emit, open_enmap, open_netcdf, open_prisma
from .raster import data_file, grid_of, open_raster, require_whole
from .raster_source import Numbers, RasterSource, gdal_numbers
from .scene import Scene, scene_of
from .several import MOSAIC, STACK, named_files
from .stac_scenes import is_item, open_item
from .stacks import open_stack
from .zarr_scenes import open_zarr, zarr_array


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
    """Open a scene of any kind.

    That is a GeoTIFF, COG, VRT or other GDAL raster; an ENVI data file or its ``.hdr``; a MATLAB file; an EnMAP product (its
    folder, ``METADATA.XML`` or image); a PRISMA ``.he5``; an EMIT ``.nc``; or a cube in NetCDF 4 or HDF5, where
    ``scene.nc:variable`` names one of several; a Zarr store (``scene.zarr``, or ``scene.zarr:array`` for one of several), here or
    at an address; or the JSON file of a STAC item, here or at a URL. Several files are a mosaic (``tiles/*.tif`` or
    ``a.tif,b.tif``, see ``open_mosaic``) or bands of one place (``a.tif+b.tif``, see ``open_stack``). GDAL's own names work, too:
    ``/vsicurl/...``, ``https://...``, ``s3://...``, under the GDAL environment of the user.

    Of a ``.mat`` file the only 3-D numeric array (rows, columns, bands) is taken; ``scene.mat:key`` names one of several.
    Bands are dropped that the file's bad-band list marks (``bbl``, 0 = bad), that hold no valid value, or that are alpha.
    If only some of the kept bands have a wavelength, the scene counts as one without wavelengths, with a warning.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a raster, damaged, complex values, no band, or no valid value at all.
    """
    name = str(source)
    return _opener(name).open(name)


def is_plain(source: str) -> bool:
    """Whether a source is one that GDAL reads as it is, which knows more of single bands than a scene tells."""
    return _opener(source) is OPENERS[-1]


def _opener(name: str) -> Opener:
    return next(opener for opener in OPENERS if opener.claims(name))


def _open_matlab(name: str) -> Scene:
    path, key = split_key(name) or (name, None)
    array = load_array(
        path, key, wanted="3-D array (rows, columns, bands)", fits=lambda shape: len(shape) == 3 and 0 not in shape
    )
    height, width, count = array.shape
    grid = Grid(height, width, None, Affine.identity())
    numbers = Numbers(array.dtype, marked=False)
    return scene_of(name, grid, BandTags(None, None, None), ArraySource(array), count, nodata=None, numbers=numbers)


def _open_mosaic(name: str) -> Scene:
    return open_mosaic(name, named_files(name, MOSAIC) or [])


def _open_stack(name: str) -> Scene:
    return open_stack(name, named_files(name, STACK) or [])


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


# The first that claims a source opens it; GDAL takes what no other does. One of these knows nothing of the others.
OPENERS = (
    Opener("EnMAP product", is_enmap, open_enmap),
    Opener("PRISMA product", is_prisma, open_prisma),
    Opener("EMIT product", is_emit, open_emit),
    Opener("NetCDF 4 or HDF5 cube", is_netcdf, open_netcdf),
    Opener("Zarr store", lambda name: zarr_array(name) is not None, open_zarr),
    Opener("STAC item", is_item, open_item),
    Opener("mosaic", lambda name: named_files(name, MOSAIC) is not None, _open_mosaic),
    Opener("bands in several files", lambda name: named_files(name, STACK) is not None, _open_stack),
    Opener("MATLAB file", lambda name: split_key(name) is not None, _open_matlab),
    Opener("raster that GDAL reads", lambda name: True, _open_gdal),
)
