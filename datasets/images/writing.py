"""Writing image files, whole or not at all."""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from ..writing import atomic
from .containers import add_tiff_tags, with_png_chunks
from .geotiff import PNG_LEVEL, encode_png, write_tiff
from .image import Image
from .pillow import encode, exif_for, require_pillow

logger = logging.getLogger(__name__)

FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".gtif": "TIFF",
    ".bmp": "BMP", ".pgm": "PPM", ".ppm": "PPM",
}  # fmt: skip
_LONGEST_SIDE = {"JPEG": 65535, "WEBP": 16383}
_NO_PROFILE = ("BMP", "PPM")  # formats without a place for colour profile and EXIF
_FULL_CHROMA = 90  # quality from which a JPEG keeps colours at full resolution: restored details are worth it


def write_image(path: str | Path, image: Image, *, overwrite: bool = False, quality: int = 95) -> None:
    """Write an image in the format that the suffix names; colour profile and EXIF go with it.

    A GeoTIFF stays one as ``.tif``, tiled and compressed, with grid, nodata, mask, descriptions and tags. TIFF and PNG are
    lossless. Nothing is converted: what a format cannot hold is an error, but for what lies beside the pixels (georeference,
    nodata, profile), which is left out with a warning in the log.

    Args:
        path: Where to; .png, .jpg, .jpeg, .webp, .tif, .tiff, .gtif, .bmp, .pgm or .ppm.
        image: What to write.
        overwrite: Whether an existing file may be replaced.
        quality: 1 to 100, for JPEG and WebP.

    Raises:
        ValueError: an unknown suffix, a quality out of range, or an image that the format cannot hold: alpha in JPEG, 16 bits in
            JPEG or WebP, floats elsewhere than in TIFF, bands other than grey and RGB, too large.
        FileExistsError, OSError: as in ``geovit.datasets.atomic``; the file is then absent or what it was.
        ImportError: Pillow is missing.
    """
    require_pillow()
    path = Path(path)
    format_ = check_format(path, image)
    if format_ != "TIFF":
        _tell_what_is_lost(path, image, format_)
    if not 1 <= quality <= 100:
        raise ValueError(f"quality {quality}: expected 1 to 100")
    exif = exif_for(image)
    if format_ == "TIFF":
        with atomic(path, overwrite) as target:
            write_tiff(target, image)
            if image.icc is not None or exif is not None:
                with target.open("r+b") as file:
                    add_tiff_tags(file, image.icc, exif)
    elif image.pixels.dtype == np.uint16:
        parts = with_png_chunks(encode_png(image), image.icc, exif)
        with atomic(path, overwrite) as target, target.open("wb") as file:
            file.writelines(parts)
    else:
        options: dict[str, Any] = {}
        if format_ in ("JPEG", "WEBP"):
            options["quality"] = quality
        if format_ == "PNG":
            options["compress_level"] = PNG_LEVEL
        if format_ == "JPEG" and quality >= _FULL_CHROMA:
            options["subsampling"] = 0
        if format_ not in _NO_PROFILE:
            options |= {key: value for key, value in (("icc_profile", image.icc), ("exif", exif)) if value is not None}
        made = encode(image)
        with atomic(path, overwrite) as target:
            made.save(target, format_, **options)


def check_format(path: Path, image: Image) -> str:
    """Format of a suffix, if it can hold the image; call it before long work on an image of this type.

    Raises:
        ValueError: as for ``write_image``.
    """
    format_ = FORMATS.get(path.suffix.lower())
    if format_ is None:
        raise ValueError(f"{path}: unknown suffix {path.suffix!r}, expected one of {', '.join(FORMATS)}")
    if format_ == "TIFF":
        return format_
    dtype, deep = image.pixels.dtype, format_ == "PNG"
    if dtype != np.uint8 and not (deep and dtype == np.uint16):
        able = "TIFF (.tif) holds them" if dtype != np.uint16 else "PNG (.png) and TIFF (.tif) hold them"
        raise ValueError(f"{path}: {format_} holds no {dtype} pixels; {able}")
    if image.channels not in (1, 3):
        raise ValueError(f"{path}: {format_} holds 1 or 3 bands, not {image.channels}; TIFF (.tif) holds them")
    if image.alpha is not None and format_ not in ("PNG", "WEBP"):
        raise ValueError(f"{path}: {format_} holds no transparency; PNG (.png), TIFF (.tif) and WebP (.webp) hold it")
    if path.suffix.lower() == ".pgm" and image.channels != 1:
        raise ValueError(f"{path}: PGM holds grey only; .ppm holds colours")
    if max(image.shape) > _LONGEST_SIDE.get(format_, max(image.shape)):
        raise ValueError(
            f"{path}: {format_} holds sides up to {_LONGEST_SIDE[format_]}, not {max(image.shape)}; use .png or .tif"
        )
    return format_


def _tell_what_is_lost(path: Path, image: Image, format_: str) -> None:
    left = [
        what
        for what, there in (
            ("georeference", image.grid is not None and image.grid.georeferenced),
            ("nodata value", image.nodata is not None),
            ("mask", image.mask is not None),
            ("colour profile", image.icc is not None and format_ in _NO_PROFILE),
            ("EXIF", image.exif is not None and format_ in _NO_PROFILE),
        )
        if there
    ]
    if left:
        logger.warning("%s: %s has no place for the %s, left out", path, format_, ", ".join(left))
