"""Reading rasters through GDAL: opening, pixels with NaN for nodata, and what the tags say about the bands."""

import itertools
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.env import Env, getenv, hasenv
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from .grid import Grid
from .handles import Handles
from .hdf5 import is_hdf5, require_contained
from .sidecars import inside
from .wavelengths import parse_numbers, to_nm

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


_WHOLE = 2**24  # float32 has every whole number below
# Types whose values and nodata survive float32, so that nodata can be told from what was read.
_EXACT_TYPES = ("uint8", "int8", "uint16", "int16", "float32")


_SMALL_TYPES = frozenset(("uint8", "int8", "uint16", "int16"))


@dataclass(frozen=True)
class Stored:
    """How the pixels of some bands are best kept in memory.

    Args:
        dtype: of their numbers.
        nodata: of each band the number that is no data; None if there is none.
    """

    dtype: np.dtype[Any]
    nodata: tuple[int | None, ...]


@dataclass(frozen=True)
class RasterSource:
    """Pixels of a GDAL dataset, which stays open between reads. Safe to send to other processes and to fork."""

    path: str
    masked: tuple[bool, ...]  # per file band: whether it has a nodata value or a mask
    alpha: tuple[int, ...]
    block: tuple[int, int]
    dtypes: tuple[str, ...]  # per file band
    nodata: tuple[float | None, ...]  # per file band: what alone hides its pixels, if that can be told from values read
    handles: Handles = field(default_factory=Handles, repr=False, compare=False)

    @classmethod
    def of(cls, path: str, src: DatasetReader, handles: Handles | None = None) -> "RasterSource":
        """Look at an open dataset of a path."""
        flags = [set(band) for band in src.mask_flag_enums]
        masked = tuple(not {MaskFlags.all_valid, MaskFlags.alpha} & band for band in flags)
        nodata = tuple(
            value if band == {MaskFlags.nodata} and dtype in _EXACT_TYPES else None
            for value, band, dtype in zip(src.nodatavals, flags, src.dtypes, strict=True)
        )
        handles = Handles() if handles is None else handles
        return cls(path, masked, alpha_bands(src), src.block_shapes[0], tuple(src.dtypes), nodata, handles)

    def read(self, bands: Sequence[int], window: Window | None) -> NDArray[np.float32]:
        """Bands (1-based, in the given order) as (C, h, w) float32, NaN where invalid. Scale and offset tags are not applied."""
        return self._read(bands, window, None)

    def decimated(self, bands: Sequence[int], window: Window, shape: tuple[int, int]) -> NDArray[np.float32]:
        """The same brought to (height, width) by nearest neighbour, from overviews if there are any."""
        return self._read(bands, window, shape)

    def _read(self, bands: Sequence[int], window: Window | None, shape: tuple[int, int] | None) -> NDArray[np.float32]:
        with open_raster(self.path, self.handles) as src:
            if shape is None:
                window = window or Window(0, 0, src.width, src.height)
                values = np.empty((len(bands), int(window.height), int(window.width)), np.float32)
                self._by_blocks(src, bands, window, values)
            else:
                values = src.read(list(bands), window=window, out_shape=(len(bands), *shape), out_dtype="float32")
            for pixels, band in zip(values, bands, strict=True):
                if not self.masked[band - 1]:
                    continue
                if (nodata := self.nodata[band - 1]) is None:
                    pixels[src.read_masks(band, window=window, out_shape=shape) == 0] = np.nan
                else:  # not asked of GDAL, which would decode files that hold all bands together once more for each band
                    hidden = _same(pixels, nodata)
                    if hidden.any():
                        pixels[hidden] = np.nan
            for band in self.alpha:  # not left to GDAL, which knows alpha of 8 and 16 bits only
                values[:, src.read(band, window=window, out_shape=shape) == 0] = np.nan
            if any(np.issubdtype(src.dtypes[band - 1], np.floating) for band in bands):
                values[~np.isfinite(values)] = np.nan
        return values

    def stored(self, bands: Sequence[int]) -> Stored | None:
        """Small integers of one type, of which nodata alone hides any."""
        types = {self.dtypes[band - 1] for band in bands}
        hidden = any(self.masked[band - 1] and self.nodata[band - 1] is None for band in bands)
        if len(types) != 1 or hidden or self.alpha or not types <= _SMALL_TYPES:
            return None
        dtype = np.dtype(types.pop())
        info = np.iinfo(dtype)

        def number(value: float | None) -> int | None:  # no pixel is NaN, a fraction or beyond the type
            return int(value) if value is not None and value.is_integer() and info.min <= value <= info.max else None

        return Stored(dtype, tuple(number(self.nodata[band - 1]) for band in bands))

    def read_numbers(self, bands: Sequence[int], window: Window, out: NDArray[Any]) -> None:
        """Read bands (1-based, in the given order) into (C, h, w) of the file's type."""
        with open_raster(self.path, self.handles) as src:
            self._by_blocks(src, bands, window, out)

    def _by_blocks(self, src: DatasetReader, bands: Sequence[int], window: Window, out: NDArray[Any]) -> None:
        """Read a window from left to right, one column of the file's blocks after the other, all bands of it.

        GDAL keeps the blocks that it decoded last. In this order they are those at the window's right end, in which the next
        window of the row begins; left to GDAL, band by band, they would be those of the last bands.
        """
        first, width = int(window.col_off), self.block[1]
        last = first + out.shape[2]
        edges = [first, *range((first // width + 1) * width, last, width), last]
        for left, right in itertools.pairwise(edges):
            part = Window(left, window.row_off, right - left, window.height)
            src.read(list(bands), window=part, out=out[:, :, left - first : right - first])


def _same(pixels: NDArray[np.float32], nodata: float) -> NDArray[np.bool_]:
    """Where nodata is meant: numbers of float32 that are written as text may differ in the last two bits, as GDAL has it."""
    with np.errstate(over="ignore"):
        value = np.float32(nodata)
    # NaN equals nothing here, and is found as what it is; whole numbers are the same in every spelling.
    if not np.isfinite(value) or (value == np.rint(value) and abs(value) < _WHOLE):
        return np.asarray(pixels == value)
    return np.asarray(np.abs(pixels - value) <= 2 * np.spacing(np.abs(value)))


@dataclass(frozen=True)
class Numbers:
    """What the file says of its numbers; information that ``Scene.read`` does not apply.

    Args:
        dtype: of the file.
        marked: whether the file itself knows what is no data.
        scalings: the (scale, offset) that the file tells, each once: value = number * scale + offset. Mostly one or none.
        tags: of the file, keys in lower case.
    """

    dtype: np.dtype[Any]
    marked: bool
    scalings: tuple[tuple[float, float], ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    def scaling(self, where: str) -> tuple[float, float] | None:
        """(scale, offset) of all bands; None if the file tells none.

        Raises:
            ValueError: bands have different ones.
        """
        if len(self.scalings) > 1:
            raise ValueError(f"{where}: bands have different scales and offsets, which is not supported")
        return self.scalings[0] if self.scalings and self.scalings[0] != (1.0, 0.0) else None


def gdal_numbers(src: DatasetReader, source: RasterSource) -> Numbers:
    """What a GDAL dataset says of its numbers."""
    tags = {key.lower(): value for key, value in src.tags().items()}
    scalings = tuple(dict.fromkeys(zip(src.scales, src.offsets, strict=True)))
    return Numbers(np.dtype(src.dtypes[0]), any(source.masked), scalings, tags)


def alpha_bands(src: DatasetReader) -> tuple[int, ...]:
    """Bands that say where the others are transparent."""
    return tuple(band for band, use in zip(src.indexes, src.colorinterp, strict=True) if use is ColorInterp.alpha)


@dataclass(frozen=True)
class BandTags:
    """What the file says about its bands, in file order; None where it says nothing."""

    wavelengths: NDArray[np.float64] | None  # nm, NaN for bands without
    fwhm: NDArray[np.float64] | None  # nm
    good: NDArray[np.bool_] | None
    alpha: tuple[int, ...] = ()


def band_tags(src: DatasetReader) -> BandTags:
    """Wavelengths, widths and bad-band list of a dataset.

    Looked for in the band tags, the GDAL ``IMAGERY`` domain of the bands, the ENVI header and the dataset tags; the first
    that has wavelengths wins. Band tags come before ``IMAGERY`` because GDAL rounds the latter when it reads ENVI headers.
    """
    good = _per_band(src, "bbl")
    wavelengths, fwhm = _wavelengths(src)
    return BandTags(wavelengths, fwhm, None if good is None else np.asarray(good) != 0, alpha_bands(src))


def _wavelengths(src: DatasetReader) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    imagery = [_lower(src.tags(band, ns="IMAGERY")) for band in src.indexes]
    found: list[tuple[list[float] | None, list[float] | None, str | None]] = [
        (_per_band(src, "wavelength"), _per_band(src, "fwhm"), _unit(src)),
        (_column(imagery, "central_wavelength_um"), _column(imagery, "fwhm_um"), "um"),
    ]
    for centres, widths, unit in found:
        if centres is None or not any(centre > 0 for centre in centres):
            continue
        if unit is not None and unit.strip().lower() == "index":
            logger.warning("%s: the wavelengths are band indices, ignored", src.name)
            continue
        return to_nm(centres, widths, unit, src.name)
    return None, None


def _lower(tags: dict[str, str]) -> dict[str, str]:
    return {key.strip().lower().replace(" ", "_"): value for key, value in tags.items()}


def _column(tags: Sequence[dict[str, str]], key: str) -> list[float] | None:
    if not any(key in band for band in tags):
        return None
    return [(parse_numbers(band.get(key, "")) or [float("nan")])[0] for band in tags]


def _per_band(src: DatasetReader, key: str) -> list[float] | None:
    column = _column([_lower(src.tags(band)) for band in src.indexes], key)
    if column is not None:
        return column
    text = _dataset_tag(src, lambda tags: tags.get(key))
    if text is None:
        return None
    values = parse_numbers(text)
    if len(values) != src.count:
        logger.warning("%s: %d values of %r for %d bands, ignored", src.name, len(values), key, src.count)
        return None
    return values


def _unit(src: DatasetReader) -> str | None:
    def find(tags: dict[str, str]) -> str | None:
        return tags.get("wavelength_units", tags.get("wavelength_unit"))

    units = {unit for band in src.indexes if (unit := find(_lower(src.tags(band)))) is not None}
    if len(units) > 1:
        raise ValueError(f"{src.name}: bands have different wavelength units {sorted(units)}")
    return units.pop() if units else _dataset_tag(src, find)


def _dataset_tag(src: DatasetReader, find: Callable[[dict[str, str]], str | None]) -> str | None:
    for namespace in ("ENVI", None):
        value = find(_lower(src.tags(ns=namespace)))
        if value is not None:
            return value
    return None


def require_real(path: str, src: DatasetReader) -> None:
    """Raise a ValueError if a file that is one of several has no bands, or bands of complex numbers."""
    if src.count == 0 or any(dtype.startswith("complex") for dtype in src.dtypes):
        raise ValueError(f"{path}: {src.count} bands of {', '.join(sorted(set(src.dtypes)))}, expected bands of real numbers")


def require_whole(src: DatasetReader) -> None:
    """Raise a ValueError if the file ends early, as far as this can be told without reading all of it."""
    # The last pixel fails in formats that keep track of their blocks. A raw ENVI file GDAL fills up with zeros, silently.
    src.read(window=Window(src.width - 1, src.height - 1, 1, 1))
    header = _lower(src.tags(ns="ENVI"))
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
