"""Opening image files of the usual formats."""

import logging
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from ..raster import open_raster
from .containers import (
    ICC_TAG,
    PNG_MAGIC,
    TIFF_MAGICS,
    PngFacts,
    count_pages,
    needs_pillow,
    png_facts,
    require_end,
    tiff_exif,
    tiff_tags,
)
from .geotiff import GeoTiff, is_geographic, read_geotiff, read_plain
from .image import Image, Pixels
from .pillow import DESCRIPTIVE_TAGS, EXIF_HEAD, from_pillow, normal_exif, quiet, require_pillow, turn

if TYPE_CHECKING:
    from PIL import ImageFile

logger = logging.getLogger(__name__)

MAX_PIXELS = 2**30  # 32768 x 32768: 3 GiB as 8-bit RGB. A small file can claim any size, so there must be a limit.

_DEEP = 16  # bits per channel
_BYTE = 255
# What Pillow's parsers raise on damaged files.
_PARSING_ERRORS = (OSError, SyntaxError, EOFError, ValueError, LookupError, TypeError, ArithmeticError, struct.error, zlib.error)
_NAMES = "PNG, JPEG, TIFF, WebP, BMP, PGM or PPM"


def open_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Image:
    """Read an image file; what it is is told by its content, not by its name.

    8 and 16 bits stay what they are. Palettes become RGB, 1-bit images grey, transparent colours an alpha channel, CMYK and Lab
    RGB (with a note in the log). EXIF orientation is applied. Of an animation or a file with several pages the first is read,
    with a warning in the log. A TIFF with a georeference, control points, nodata, a mask, or bands that are neither grey nor RGB
    is read as GeoTIFF, with its grid.

    Args:
        path: The file.
        max_pixels: Height times width above which a file is refused, because it may be made to fill the memory.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an image, truncated or damaged, of a type that is not supported, or larger than ``max_pixels``.
        ImportError: Pillow is missing.
    """
    require_pillow()
    from PIL import Image as PillowImage

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: {'a folder, not an image' if path.is_dir() else 'no such file'}")
    with path.open("rb") as file, quiet():
        head = file.read(16)
        file.seek(0)
        try:
            return _read(file, head, path, max_pixels)
        except PillowImage.DecompressionBombError as error:  # its own limit, which only the reader of WebP has
            raise ValueError(f"{path}: {error.args[0]}") from error
        except _PARSING_ERRORS as error:
            raise _damaged(path, error) from error


def _read(file: IO[bytes], head: bytes, path: Path, max_pixels: int) -> Image:
    name = str(path)
    if not head:
        raise ValueError(f"{name}: empty, 0 bytes")
    if head.startswith(TIFF_MAGICS):
        return _read_tiff(file, name, max_pixels)
    if head.startswith(PNG_MAGIC):
        facts = png_facts(file, name)
        if facts.bits == _DEEP:
            require_size(facts.size, max_pixels, name)
            return _read_deep_png(file, facts, name)
    else:
        require_end(file, head, name)
    file.seek(0)
    made, format_ = _identify(file, head, name)
    require_size(made.size, max_pixels, name)
    _first_of(getattr(made, "n_frames", 1), "frames", name)
    return from_pillow(made, name, format=format_)


def open_geotiff(path: str | Path) -> GeoTiff | None:
    """Open a GeoTIFF of any size to read it window by window; None if the file is something else, or a picture alone.

    Raises:
        ValueError: a GeoTIFF that is damaged, or of a type that is not supported.
    """
    path = Path(path)
    if not path.is_file():
        return None
    name = str(path)
    with path.open("rb") as file, quiet():
        if not file.read(16).startswith(TIFF_MAGICS):
            return None
        try:
            tags = tiff_tags(file)
            with open_raster(name) as src:
                if not is_geographic(src, tags):
                    return None
                _first_of(count_pages(file), "pages", name)
                return GeoTiff.of(src, name, tags.get(ICC_TAG))
        except _PARSING_ERRORS as error:
            raise _damaged(path, error) from error


def _damaged(path: Path, error: BaseException) -> ValueError:
    text = " ".join(str(error).split())
    told = isinstance(error, ValueError) and text.startswith(str(path))
    return ValueError(text if told else f"{path}: truncated or damaged ({text})")


def _identify(file: IO[bytes], head: bytes, name: str) -> tuple["ImageFile.ImageFile", str]:
    """Pillow's reader. Called directly, so that no other format is tried, and our limit of pixels holds in place of Pillow's."""
    from PIL import BmpImagePlugin, JpegImagePlugin, PngImagePlugin, PpmImagePlugin, WebPImagePlugin

    if head.startswith(PNG_MAGIC):
        return PngImagePlugin.PngImageFile(file), "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return JpegImagePlugin.JpegImageFile(file), "JPEG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return WebPImagePlugin.WebPImageFile(file), "WEBP"
    if head.startswith(b"BM"):
        return BmpImagePlugin.BmpImageFile(file), "BMP"
    if head[:2] in (b"P2", b"P3", b"P5", b"P6"):
        made = PpmImagePlugin.PpmImageFile(file)
        if made.mode == "I" or _maximum(made) > _BYTE:
            raise ValueError(f"{name}: a PGM or PPM of more than 8 bits; expected 8, or a PNG or TIFF of 16 bits")
        return made, "PPM"
    raise ValueError(f"{name}: not an image that can be read; expected {_NAMES}")


def _maximum(made: "ImageFile.ImageFile") -> int:
    """Largest value of a PPM, as far as it matters to Pillow's decoder."""
    tile = made.tile[0]
    if not (tile.codec_name.startswith("ppm") and isinstance(tile.args, tuple)):
        return 0
    return max((arg for arg in tile.args if isinstance(arg, int)), default=0)


def _read_deep_png(file: IO[bytes], facts: PngFacts, name: str) -> Image:
    """A PNG of 16 bits per channel: pixels from GDAL, because Pillow has 16 bits for grey only, the rest from Pillow."""
    from PIL import Image as PillowImage
    from PIL.PngImagePlugin import PngImageFile

    with open_raster(name) as src:
        pixels, alpha = read_plain(src, {})
    file.seek(0)
    made = PngImageFile(file)
    clear = made.info.get("transparency")  # one colour that is transparent
    _first_of(getattr(made, "n_frames", 1), "frames", name)
    exif = PillowImage.Image.getexif(made)  # that of PNG decodes the pixels, to find EXIF behind them
    if facts.exif is not None:
        exif.load(EXIF_HEAD + facts.exif)
    orientation, block = normal_exif(exif, name)
    if alpha is None and clear is not None:
        alpha = np.where((pixels == np.asarray(clear)).all(axis=-1), 0, 65535).astype(np.uint16)
    return _turned(pixels, alpha, orientation, icc=made.info.get("icc_profile"), exif=block, format_="PNG", name=name)


def _read_tiff(file: IO[bytes], name: str, max_pixels: int) -> Image:
    from PIL.TiffImagePlugin import TiffImageFile

    tags = tiff_tags(file)
    with open_raster(name) as src:
        require_size((src.width, src.height), max_pixels, name)
        icc = tags.get(ICC_TAG)
        _first_of(count_pages(file), "pages", name)
        plain = not is_geographic(src, tags)
        if plain and not needs_pillow(tags):
            pixels, alpha = read_plain(src, tags)
            orientation, block = normal_exif(tiff_exif(file), name, only=DESCRIPTIVE_TAGS)
            return _turned(pixels, alpha, orientation, icc=icc, exif=block, format_="TIFF", name=name)
        if not plain:
            return replace(read_geotiff(src, name), icc=icc)
    file.seek(0)
    return from_pillow(TiffImageFile(file), name, format="TIFF")


def _turned(
    pixels: Pixels, alpha: Pixels | None, orientation: int, *, icc: bytes | None, exif: bytes | None, format_: str, name: str
) -> Image:
    alpha = None if alpha is None else turn(alpha, orientation)
    return Image(pixels=turn(pixels, orientation), alpha=alpha, icc=icc or None, exif=exif, format=format_, name=name)


def _first_of(count: int, what: str, name: str) -> None:
    if count > 1:
        logger.warning("%s: holds %d %s, of which the first is taken", name, count, what)


def require_size(size: tuple[int, int], max_pixels: int, name: str) -> None:
    if size[0] * size[1] > max_pixels:
        raise ValueError(f"{name}: {size[0]} x {size[1]} pixels, more than the limit of {max_pixels}")
