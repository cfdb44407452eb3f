"""Opening image files of the usual formats."""

import logging
from pathlib import Path
from typing import IO, TYPE_CHECKING

from .image import Image
from .pillow import from_pillow, quiet, require_pillow

if TYPE_CHECKING:
    from PIL import ImageFile

logger = logging.getLogger(__name__)

MAX_PIXELS = 2**30  # 32768 x 32768: 3 GiB as 8-bit RGB. A small file can claim any size, so there must be a limit.

_NAMES = "PNG, JPEG, TIFF, WebP, BMP, PGM or PPM"


def open_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Image:
    """Read an image file; what it is is told by its content, not by its name.

    8 and 16 bits stay what they are. Palettes become RGB, 1-bit images grey, transparent colours an alpha channel, CMYK and Lab
    RGB (with a note in the log). EXIF orientation is applied. Of an animation or a file with several pages the first is read,
    with a warning in the log. A TIFF with a georeference, nodata, ground control points, int16 or more than four bands is read
    as GeoTIFF, with its grid.

    Args:
        path: The file.
        max_pixels: Height times width above which a file is refused, because it may be made to fill the memory.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an image, truncated or damaged, of a type that is not supported, or larger than ``max_pixels``.
        ImportError: Pillow is missing.
    """
    require_pillow()
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: {'a folder, not an image' if path.is_dir() else 'no such file'}")
    with path.open("rb") as file:
        head = file.read(16)
        file.seek(0)
        try:
            return _read(file, head, path, max_pixels)
        except (OSError, SyntaxError, EOFError) as error:  # Pillow's ways of saying that
            raise ValueError(f"{path}: truncated or damaged ({' '.join(str(error).split())})") from error


def _read(file: IO[bytes], head: bytes, path: Path, max_pixels: int) -> Image:
    name = str(path)
    if not head:
        raise ValueError(f"{name}: empty, 0 bytes")
    made, format_ = _identify(file, head, name)
    _require_size(made.size, max_pixels, name)
    return from_pillow(made, name, format=format_)


def _identify(file: IO[bytes], head: bytes, name: str) -> tuple["ImageFile.ImageFile", str]:
    """Pillow's reader. Called directly, so that no other format is tried, and our limit of pixels holds in place of Pillow's."""
    from PIL import BmpImagePlugin, JpegImagePlugin, PngImagePlugin, PpmImagePlugin, WebPImagePlugin

    with quiet():
        if head.startswith(b"\x89PNG\r\n\x1a\n"):
            return PngImagePlugin.PngImageFile(file), "PNG"
        if head.startswith(b"\xff\xd8\xff"):
            return JpegImagePlugin.JpegImageFile(file), "JPEG"
        if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            return WebPImagePlugin.WebPImageFile(file), "WEBP"
        if head.startswith(b"BM"):
            return BmpImagePlugin.BmpImageFile(file), "BMP"
        if head[:2] in (b"P2", b"P3", b"P5", b"P6"):
            return PpmImagePlugin.PpmImageFile(file), "PPM"
    raise ValueError(f"{name}: not an image that can be read; expected {_NAMES}")


def _require_size(size: tuple[int, int], max_pixels: int, name: str) -> None:
    if size[0] * size[1] > max_pixels:
        raise ValueError(f"{name}: {size[0]} x {size[1]} pixels, more than the limit of {max_pixels}")
