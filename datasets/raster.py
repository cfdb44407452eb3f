"""Opening rasters through GDAL: which are taken, whether they are whole, and their grid."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.env import Env, getenv, hasenv
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from .band_tags import lower_keys
from .grid import Grid
from .handles import Handles
from .hdf5 import is_hdf5, require_contained
from .sidecars import inside

logger = logging.getLogger(__name__)

# UnicodeDecodeError: rasterio takes what GDAL says, and the tags of a file, for UTF-8.
GDAL_ERRORS = (RasterioError, CPLE_BaseError, UnicodeDecodeError)
# What is no file of pixels: services, and files that name others which may lie anywhere. A VRT is one of these, too, and is read
# where the user names it as such.
_ELSEWHERE = frozenset(
    ("DAAS", "DERIVED", "EEDA", "EEDAI", "GTI", "HTTP", "KMLSUPEROVERLAY", "MEM", "MRF", "NGW", "OGCAPI", "PLMOSAIC", "STACIT",
     "STACTA", "WCS", "WMS", "WMTS")
)  # fmt: skip
_ALONE = frozenset(("GTiff", "COG", "PNG", "JPEG", "JP2OpenJPEG", "ENVI"))  # name no other files, but for overviews
_ENVI_SUFFIXES = ("", ".dat", ".img", ".bsq", ".bil", ".bip", ".raw", ".bin", ".envi")


# By itself GDAL waits for ever for a server that has taken a request. Who sets any of these is asked nothing.
_PATIENCE = ("GDAL_HTTP_TIMEOUT", "GDAL_HTTP_LOW_SPEED_TIME", "GDAL_HTTP_LOW_SPEED_LIMIT")
_STALLED = {"GDAL_HTTP_LOW_SPEED_TIME": "60", "GDAL_HTTP_LOW_SPEED_LIMIT": "1"}  # seconds with less than so many bytes a second


class NotARasterError(ValueError):
    """The file exists, and GDAL has no driver that reads it as a raster."""


@contextmanager
def quiet_georeference() -> Iterator[None]:
    """Silence rasterio's warning about files without georeference, which are welcome here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


@contextmanager
def open_raster(path: str, handles: Handles | None = None) -> Iterator[DatasetReader]:
    """Open a raster for one use, so that no handle outlives a fork; or borrow it from ``handles``.

    Raises:
        FileNotFoundError: no such local file.
        NotARasterError: GDAL cannot open it.
        ValueError: GDAL fails while the caller reads, or the file makes it read others that the user did not name.
    """
    settings = _settings(path)
    with (
        Env(**settings) if settings else nullcontext(),
        _opened(path) if handles is None else handles.borrow(path, _opened) as src,
    ):
        try:
            yield src
        except GDAL_ERRORS as error:
            raise ValueError(f"{path}: cannot be read, truncated or damaged ({reason(error)})") from error


def _settings(path: str) -> dict[str, str]:
    """What GDAL is told for a path beside the environment of the user."""
    virtual = _is_virtual(path)
    # Whatever the environment says: a VRT may hold Python, and pixels are not to be a program.
    settings = {"GDAL_VRT_ENABLE_PYTHON": "NO"} if virtual else {}
    remote = "://" in path or "/vsi" in path
    if (remote or virtual) and not any(key in os.environ or (hasenv() and key in getenv()) for key in _PATIENCE):
        settings |= _STALLED
    return settings


def _is_virtual(path: str) -> bool:
    return path.split("?", maxsplit=1)[0].lower().endswith(".vrt")


def _opened(path: str) -> DatasetReader:
    if is_hdf5(path):
        require_contained(path)
    try:
        with quiet_georeference(), _complaints() as heard:
            src = rasterio.open(path)
    except GDAL_ERRORS as error:
        if _is_local(path) and not Path(path).exists():
            raise FileNotFoundError(f"{path}: no such file") from error
        raise NotARasterError(f"{path}: not a raster that GDAL can open ({reason(error)})") from error
    if lost := next((text for text in heard if "IO error during reading of" in text), None):
        src.close()
        raise ValueError(f"{path}: truncated or damaged ({lost})")
    try:
        _require_own(path, src, virtual=_is_virtual(path))
    except BaseException:
        src.close()
        raise
    return src


def _require_own(path: str, src: DatasetReader, *, virtual: bool) -> None:
    """Raise a ValueError if pixels come from files that the user did not name: see ``sidecars``."""
    if src.driver in _ELSEWHERE or (src.driver == "VRT" and not virtual):
        hint = "; name it .vrt if it is meant" if src.driver == "VRT" else ""
        raise NotARasterError(f"{path}: GDAL takes it for {src.driver}, which names pixels elsewhere and is not read{hint}")
    if virtual or not Path(path).exists():
        return
    named = [src.tags(ns="OVERVIEWS").get(key, "").removeprefix(":::BASE:::") for key in ("OVERVIEW_FILE", "MASK_FILE")]
    if src.driver not in _ALONE:
        named += src.files
    for name in filter(None, named):
        inside(Path(path), os.path.abspath(name) if Path(name).exists() else name)


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """Collect what GDAL warns of. A TIFF whose end is missing opens all the same, without the tags that were there."""
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(" ".join(record.getMessage().split()))  # type: ignore[method-assign]
    gdal = logging.getLogger("rasterio._env")
    level = gdal.level
    gdal.addHandler(handler)
    gdal.setLevel(logging.WARNING)
    try:
        yield heard
    finally:
        gdal.removeHandler(handler)
        gdal.setLevel(level)


def _is_local(path: str) -> bool:
    # GDAL also takes URLs, /vsi paths and DRIVER:"file":part; only a plain path can be looked for.
    return "://" not in path and not path.startswith("/vsi") and '"' not in path


def reason(error: BaseException) -> str:
    """What GDAL said first, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())


def data_file(path: str) -> str:
    """The file to hand to GDAL: for an ENVI header, the data file beside it.

    Raises:
        FileNotFoundError: no data file beside the header.
    """
    header = Path(path)
    if header.suffix.lower() != ".hdr" or not header.is_file():
        return path
    stem = header.with_suffix("")
    for suffix in _ENVI_SUFFIXES:
        for spelled in (suffix, suffix.upper()):
            candidate = stem.with_name(stem.name + spelled)
            if candidate.is_file():
                return str(candidate)
    raise FileNotFoundError(
        f"{path}: no data file beside the ENVI header, looked for {stem.name}[{'|'.join(_ENVI_SUFFIXES[1:])}]"
    )


def require_real(path: str, src: DatasetReader) -> None:
    """Raise a ValueError if a file that is one of several has no bands, or bands of complex numbers."""
    if src.count == 0 or any(dtype.startswith("complex") for dtype in src.dtypes):
        raise ValueError(f"{path}: {src.count} bands of {', '.join(sorted(set(src.dtypes)))}, expected bands of real numbers")


def require_whole(src: DatasetReader) -> None:
    """Raise a ValueError if the file ends early, as far as this can be told without reading all of it."""
    # The last pixel fails in formats that keep track of their blocks. A raw ENVI file GDAL fills up with zeros, silently.
    src.read(window=Window(src.width - 1, src.height - 1, 1, 1))
    header = lower_keys(src.tags(ns="ENVI"))
    if src.driver != "ENVI" or header.get("file_compression", "0") != "0" or not Path(src.name).is_file():
        return
    value_bytes = sum(np.dtype(dtype).itemsize for dtype in src.dtypes)
    expected = int(header.get("header_offset", 0)) + src.width * src.height * value_bytes
    size = Path(src.name).stat().st_size
    if size < expected:
        raise ValueError(f"{src.name}: truncated, {size} of {expected} bytes")


def grid_of(src: DatasetReader) -> Grid:
    """Grid of a dataset; says so when it is only partly georeferenced."""
    grid = Grid.of(src)
    if grid.crs is None:
        points = " (it has ground control points, which are not used)" if src.gcps[0] else ""
        logger.info("%s: no coordinate reference system%s", src.name, points)
    return grid


def band_facts(path: Path) -> list[dict[str, Any]]:
    """Return name, data type and nodata value of each band, as STAC 1.1 (common metadata, bands) spells them."""
    with open_raster(str(path)) as src:
        names = [text or f"band {band}" for band, text in enumerate(src.descriptions, start=1)]
        facts = [{"name": name, "data_type": dtype} for name, dtype in zip(names, src.dtypes, strict=True)]
        for band, value in zip(facts, src.nodatavals, strict=True):
            if value is not None:
                band["nodata"] = "nan" if np.isnan(value) else value
    return facts
