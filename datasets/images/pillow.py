"""Pixels and metadata from and to Pillow, which holds 8-bit images, and 16 bits or floats of one band."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .image import Image, Pixels

if TYPE_CHECKING:
    from PIL import Image as PillowImage

logger = logging.getLogger(__name__)

_ORIENTATION = 0x0112
_SIZE_TAGS = (0xA002, 0xA003)  # width, height, in the Exif part
_EXIF_PART, _GPS_PART = 0x8769, 0x8825
EXIF_HEAD = b"Exif\0\0"

# Of a TIFF's own tags, those which describe the picture; the others say how the pixels are stored. Description, make, model,
# resolution (3), software, date, artist, computer, copyright, those of Windows (5), and the Exif and GPS parts.
DESCRIPTIVE_TAGS = frozenset(
    {270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 33432, *range(0x9C9B, 0x9CA0), _EXIF_PART, _GPS_PART}
)

# Pixels with (0, 0) at the top left, by EXIF orientation: flip rows, flip columns, after swapping the axes if told.
_TURNS = {
    2: (False, False, True), 3: (False, True, True), 4: (False, True, False), 5: (True, False, False),
    6: (True, False, True), 7: (True, True, True), 8: (True, True, False),
}  # fmt: skip


def require_pillow() -> None:
    """Raise an ImportError in one line, which names the extra, if Pillow is not there."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise ImportError("images need Pillow: pip install 'geovit[restoration]'") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Pillow's warnings: what matters of them becomes an error of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def from_pillow(made: "PillowImage.Image", name: str, *, format: str = "") -> Image:  # noqa: A002
    """Take a PIL image of any mode whose meaning is certain; EXIF orientation is applied.

    Raises:
        ValueError: a mode whose range is unknown (32-bit integers).
        OSError, SyntaxError: what Pillow finds wrong with a file, which it reads only now.
    """
    with quiet():
        made.load()
        pixels, alpha, icc = _decode(made, name)
        orientation, exif = _exif_of(made, name)
    turned = turn(pixels, orientation)
    return Image(
        pixels=turned, alpha=None if alpha is None else turn(alpha, orientation), icc=icc, exif=exif, format=format, name=name
    )


def _decode(made: "PillowImage.Image", name: str) -> tuple[Pixels, Pixels | None, bytes | None]:
    """(H, W, C), (H, W) or None, colour profile."""
    icc = made.info.get("icc_profile") or None
    mode = made.mode
    transparent = "transparency" in made.info
    if mode.startswith("I;16"):
        grey = np.asarray(made).astype(np.uint16)  # native order
        alpha = np.where(grey == made.info["transparency"], 0, 65535).astype(np.uint16) if transparent else None
        return grey[..., None], alpha, icc
    if mode == "F":
        return np.array(made, dtype=np.float32)[..., None], None, icc
    if mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        made, icc = _to_rgb(made, icc, name)
    elif mode in ("1", "L", "LA", "La"):
        made = made.convert("LA" if transparent or mode in ("LA", "La") else "L")
    elif mode in ("P", "PA", "RGB", "RGBX", "RGBA", "RGBa"):
        made = made.convert("RGBA" if made.has_transparency_data or mode == "RGBa" else "RGB")
    else:
        raise ValueError(f"{name}: pixels of Pillow's mode {mode}, whose range is unknown; expected 8 or 16 bits, or floats")
    values: NDArray[np.uint8] = np.array(made)
    if values.ndim == 2:
        return values[..., None], None, icc
    if values.shape[2] in (2, 4):
        return np.ascontiguousarray(values[..., :-1]), np.ascontiguousarray(values[..., -1]), icc
    return values, None, icc


def _to_rgb(made: "PillowImage.Image", icc: bytes | None, name: str) -> tuple["PillowImage.Image", bytes | None]:
    """RGB by the image's own profile if it has one, else by Pillow's formula; the profile of the result is sRGB."""
    from PIL import ImageCms

    if icc is not None and made.mode in ("CMYK", "LAB"):
        try:
            srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
            converted = ImageCms.profileToProfile(made, io.BytesIO(icc), srgb, outputMode="RGB")
        except ImageCms.PyCMSError as error:
            logger.warning("%s: its colour profile is not usable (%s)", name, error)
        else:
            if converted is not None:
                logger.warning("%s: %s, converted to sRGB by its colour profile", name, made.mode)
                return converted, srgb.tobytes()
    if made.mode != "YCbCr":
        logger.warning("%s: %s without a usable colour profile, converted to RGB by formula: colours may be off", name, made.mode)
    return made.convert("RGB"), icc if made.mode == "YCbCr" else None


def turn(pixels: Pixels, orientation: int) -> Pixels:
    """Apply an EXIF orientation (1 to 8; others count as 1) to pixels (H, W, ...)."""
    swap, rows, columns = _TURNS.get(orientation, (False, False, False))
    turned = np.swapaxes(pixels, 0, 1) if swap else pixels
    turned = turned[:: -1 if rows else 1, :: -1 if columns else 1]
    return np.ascontiguousarray(turned)


def _exif_of(made: "PillowImage.Image", name: str) -> tuple[int, bytes | None]:
    from PIL import Image as PillowImage

    # The base method: that of PNG reads all pixels to look for EXIF behind them, which `from_pillow` has done if it matters.
    return normal_exif(PillowImage.Image.getexif(made), name, only=DESCRIPTIVE_TAGS if hasattr(made, "tag_v2") else None)


def normal_exif(exif: "PillowImage.Exif", name: str, *, only: frozenset[int] | None = None) -> tuple[int, bytes | None]:
    """Orientation, and the block without orientation and thumbnail, which would be stale; None if nothing is left."""
    from PIL import Image as PillowImage

    orientation = exif.get(_ORIENTATION, 1)
    kept = PillowImage.Exif()
    try:
        for tag, value in exif.items():
            if tag != _ORIENTATION and (only is None or tag in only):
                kept[tag] = exif.get_ifd(tag) if tag in (_EXIF_PART, _GPS_PART) else value
        block = kept.tobytes() if len(kept) else None
    except Exception as error:  # noqa: BLE001 - a damaged block fails in many ways, and pixels are worth having without it
        logger.warning("%s: its EXIF block is damaged and left out (%s)", name, error)
        block = None
    return orientation if isinstance(orientation, int) else 1, block


def exif_for(image: Image) -> bytes | None:
    """The EXIF block to write: it tells the size of these pixels."""
    from PIL import Image as PillowImage

    if image.exif is None:
        return None
    exif = PillowImage.Exif()
    exif.load(image.exif)
    part = exif.get_ifd(_EXIF_PART)
    if not set(_SIZE_TAGS) & set(part):
        return image.exif
    for tag, size in zip(_SIZE_TAGS, (image.shape[1], image.shape[0]), strict=True):
        part[tag] = size
    return exif.tobytes()


def encode(image: Image) -> "PillowImage.Image":
    """PIL image of mode L, LA, RGB, RGBA, I;16 or F, without metadata.

    Raises:
        ValueError: there is no mode for it: 16-bit colour, int16, or bands other than 1 or 3.
    """
    require_pillow()
    from PIL import Image as PillowImage

    dtype, channels, bare = image.pixels.dtype, image.channels, image.alpha is None
    if not ((dtype == np.uint8 and channels in (1, 3)) or (dtype in (np.uint16, np.float32) and channels == 1 and bare)):
        held = f"{channels} bands of {dtype}{'' if bare else ' with alpha'}"
        raise ValueError(f"{image.name}: Pillow has no mode for {held}; it has 1 or 3 of uint8, and 1 of uint16 or float32")
    parts: list[NDArray[Any]] = [image.pixels] if image.alpha is None else [image.pixels, image.alpha[..., None]]
    values = np.concatenate(parts, axis=-1) if len(parts) > 1 else image.pixels
    return PillowImage.fromarray(np.ascontiguousarray(values[..., 0] if values.shape[2] == 1 else values))
