"""EnMAP products of DLR: a folder with ``*METADATA.XML`` and ``*SPECTRAL_IMAGE.TIF``, or either of the two.

Layout: DLR, EnMAP Product Specification EN-PCV-ICD-2009-2. The image has no wavelengths of its own: they are in the metadata, at
``specific/bandCharacterisation/bandID``. L2A (and L1C, which is radiance) lie on a map grid; numbers of -32768 are no data. VNIR
and SWIR overlap around 950 nm: all bands are kept and sorted, as everywhere. Quality layers are not applied.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from ..band_tags import BandTags, alpha_bands
from ..hdf5 import masked
from ..raster import grid_of, open_raster, require_whole
from ..raster_source import RasterSource, gdal_numbers
from ..scene import Scene, scene_of
from ..sidecars import beside
from .xml import Element, read_xml

_NODATA = -32768.0
_IMAGE = "SPECTRAL_IMAGE"
_SUFFIXES = (".TIF", ".TIFF", ".BSQ", ".BIL", ".BIP", ".JP2")
_HEAD = 4096  # bytes in which the root of the metadata begins


def is_enmap(source: str) -> bool:
    """Whether a source is an EnMAP product: its folder, its metadata, or its image with the metadata beside it."""
    return next(_metadata(source), None) is not None


def _metadata(source: str) -> Iterator[Path]:
    """The metadata files that belong to a source."""
    path = Path(source)
    try:
        if path.is_dir():
            candidates = sorted(path.iterdir())
        elif _is_image(path) and path.is_file():
            candidates = sorted(each for each in path.parent.iterdir() if each.name.startswith(_stem(path)))
        else:
            candidates = [path]
        for each in candidates:
            if "METADATA" in each.name.upper() and each.suffix.upper() == ".XML" and each.is_file():
                with each.open("rb") as file:
                    if b"<level_X" in file.read(_HEAD):
                        yield each
    except (OSError, ValueError):  # not a local path
        return


def _is_image(path: Path) -> bool:
    return _IMAGE in path.name.upper() and path.suffix.upper() in _SUFFIXES


def _stem(image: Path) -> str:
    return image.name[: image.name.upper().index(_IMAGE)]


def open_enmap(source: str) -> Scene:
    """Open an EnMAP product.

    Raises:
        FileNotFoundError: the image is not there.
        ValueError: several products in the folder, metadata that do not describe the image, or a damaged file.
    """
    described = list(_metadata(source))
    if len(described) != 1:
        raise ValueError(f"{source}: several products, {', '.join(each.name for each in described[:4])}: name one")
    metadata, root = described[0], read_xml(described[0])
    path = Path(source) if _is_image(Path(source)) else _image(metadata, root)
    bands = _bands(metadata, root)
    count = len(bands.wavelengths)
    with open_raster(str(path)) as src:
        if src.count != count:
            raise ValueError(f"{metadata}: describes {count} bands, {path.name} has {src.count}")
        if src.dtypes[0].startswith("complex"):
            raise ValueError(f"{path}: data type {src.dtypes[0]}, expected real numbers")
        require_whole(src)
        raster = RasterSource.of(str(path), src)
        told = gdal_numbers(src, raster)
        numbers = replace(told, marked=True, scalings=bands.scalings or told.scalings)
        grid, nodata = grid_of(src), src.nodata if src.nodata is not None else _NODATA
        tags = BandTags(bands.wavelengths, bands.widths, None, alpha_bands(src))
    pixels = raster if all(raster.masked) else _Filled(raster)
    return scene_of(str(path), grid, tags, pixels, count, nodata=nodata, numbers=numbers)


def _image(metadata: Path, root: Element) -> Path:
    """The image that the metadata name, or the one beside them whose name begins as theirs: portals rename it."""
    named = root.one("product/image/merge/name")
    if named:
        try:
            return beside(metadata, named)
        except FileNotFoundError:
            pass
    stem = metadata.name[: metadata.name.upper().index("METADATA")]
    found = sorted(each for each in metadata.parent.iterdir() if _is_image(each) and _stem(each) == stem)
    if any(each.stem.upper().endswith(("_VNIR", "_SWIR")) for each in found):
        raise ValueError(
            f"{metadata}: a product of level 1B, with an image for each detector and no map grid; expected L2A or L1C"
        )
    if not found:
        raise FileNotFoundError(f"{metadata}: no {named or f'{stem}{_IMAGE}.TIF'} beside it")
    if len(found) > 1:
        raise ValueError(f"{metadata}: several images beside it, {', '.join(each.name for each in found[:4])}: name one")
    return beside(metadata, found[0].name)


@dataclass(frozen=True)
class _Bands:
    wavelengths: NDArray[np.float64]
    widths: NDArray[np.float64]
    scalings: tuple[tuple[float, float], ...]


def _bands(metadata: Path, root: Element) -> _Bands:
    """Wavelengths and widths in nm, and the distinct pairs of gain and offset."""
    elements = root.all("specific/bandCharacterisation/bandID")
    keys = ("wavelengthCenterOfBand", "FWHMOfBand", "GainOfBand", "OffsetOfBand")
    try:
        elements.sort(key=lambda element: int(element.attributes["number"]))
        order = [int(element.attributes["number"]) for element in elements]
        table = np.array([[float(element.one(key) or "nan") for key in keys] for element in elements])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{metadata}: its bandCharacterisation cannot be read ({error})") from error
    if not order or order != list(range(1, len(order) + 1)):
        raise ValueError(f"{metadata}: its bandCharacterisation does not number bands 1, 2, 3 ...: {order[:8]}")
    if not (table[:, 0] > 0).all() or not np.isfinite(table[:, :2]).all():
        raise ValueError(
            f"{metadata}: wavelengthCenterOfBand {np.nanmin(table[:, 0]):g} nm, expected all above 0, and widths with them"
        )
    pairs = [(gain, offset if np.isfinite(offset) else 0.0) for gain, offset in table[:, 2:].tolist()]
    scalings = tuple(dict.fromkeys(pairs)) if np.isfinite(table[:, 2]).all() else ()
    return _Bands(table[:, 0], table[:, 1], scalings)


@dataclass(frozen=True)
class _Filled:
    """An image that does not tell which number is no data."""

    raster: RasterSource

    @property
    def block(self) -> tuple[int, int]:
        return self.raster.block

    def read(self, bands: Sequence[int], window: Window | None) -> NDArray[np.float32]:
        return masked(self.raster.read(bands, window), (_NODATA,))
