"""Writing image files, whole or not at all."""

from pathlib import Path
from typing import Any

from ..writing import atomic
from .image import Image
from .pillow import encode, exif_for

FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".gtif": "TIFF",
    ".bmp": "BMP", ".pgm": "PPM", ".ppm": "PPM",
}  # fmt: skip


def write_image(path: str | Path, image: Image, *, overwrite: bool = False, quality: int = 95) -> None:
    """Write an image in the format that the suffix names; colour profile and EXIF go with it.

    Raises:
        ValueError: an unknown suffix, or an image that the format cannot hold.
        FileExistsError, OSError: as in ``atomic``.
    """
    path = Path(path)
    format_ = FORMATS.get(path.suffix.lower())
    if format_ is None:
        raise ValueError(f"{path}: unknown suffix {path.suffix!r}, expected one of {', '.join(FORMATS)}")
    made = encode(image)
    options: dict[str, Any] = {"quality": quality} if format_ in ("JPEG", "WEBP") else {}
    if image.icc is not None:
        options["icc_profile"] = image.icc
    if (exif := exif_for(image)) is not None:
        options["exif"] = exif
    with atomic(path, overwrite) as target:
        made.save(target, format_, **options)
