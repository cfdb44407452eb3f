"""The insides of PNG and TIFF files, as far as the libraries do not show them: chunks, tags, and whether the end is there."""

import io
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from .pillow import DESCRIPTIVE_TAGS, EXIF_HEAD

if TYPE_CHECKING:
    from PIL import Image as PillowImage
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_IHDR_END = 33  # magic, and the first chunk: 8 bytes around 13 of content, 4 of checksum
ICC_TAG = 34675  # and other tags of TIFF
PHOTOMETRIC = 262
_BITS, _SUBFILE = 258, 254
_BRIGHTNESS = (0, 1, 2)  # photometric: from white, from black, RGB
_SMALLER_OR_MASK = 0b101  # bits of the kind of page
_BYTE = 8
_UNDEFINED = 7  # type of a TIFF tag that holds bytes


class PngFacts(NamedTuple):
    """What the header and the chunks of a PNG file say."""

    size: tuple[int, int]  # width, height
    bits: int  # per channel
    exif: bytes | None


def png_facts(file: IO[bytes], name: str) -> PngFacts:
    """Walk over the chunks of a PNG file.

    Raises:
        ValueError: the file ends before its last chunk does, which Pillow and GDAL let pass if enough of the pixels is there.
    """
    file.seek(len(PNG_MAGIC))
    size, bits, exif = (0, 0), 0, None
    length = os.fstat(file.fileno()).st_size
    while len(head := file.read(8)) == 8:
        count, kind = struct.unpack(">I4s", head)
        end = file.tell() + count + 4
        if end > length:
            break
        if kind == b"IHDR":
            width, height, bits = struct.unpack(">IIB", file.read(9))
            size = width, height
        elif kind == b"eXIf":
            exif = file.read(count)
        elif kind == b"IEND":
            return PngFacts(size, bits, exif)
        file.seek(end)
    raise ValueError(f"{name}: truncated, the PNG ends in the middle")


def with_png_chunks(png: bytes, icc: bytes | None, exif: bytes | None) -> list[bytes]:
    """The parts of a PNG file with colour profile and EXIF in it, which go between the header and the pixels."""
    parts = [png[:_IHDR_END]]
    if icc is not None:
        parts.append(_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc)))
    if exif is not None:
        parts.append(_chunk(b"eXIf", exif.removeprefix(EXIF_HEAD)))
    return [*parts, png[_IHDR_END:]]


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content), kind) + content + struct.pack(">I", zlib.crc32(kind + content))


def require_end(file: IO[bytes], head: bytes, name: str) -> None:
    """Raise a ValueError if a JPEG or WebP file has no end; Pillow misses some of these."""
    length = os.fstat(file.fileno()).st_size
    if head.startswith(b"\xff\xd8"):
        file.seek(0)
        if file.read().rfind(b"\xff\xd9") < 0:
            raise ValueError(f"{name}: truncated, the JPEG has no end")
    elif head.startswith(b"RIFF") and struct.unpack("<I", head[4:8])[0] + 8 > length:
        raise ValueError(f"{name}: truncated, {length} of {struct.unpack('<I', head[4:8])[0] + 8} bytes")


def tiff_tags(file: IO[bytes]) -> "ImageFileDirectory_v2":
    """The tags of the first page of a TIFF."""
    return next(_pages(file))


def count_pages(file: IO[bytes]) -> int:
    """How many pictures a TIFF holds, not counting smaller versions and masks."""
    return sum(not first(page, _SUBFILE, 0) & _SMALLER_OR_MASK for page in _pages(file))


def _pages(file: IO[bytes]) -> Iterator["ImageFileDirectory_v2"]:
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    file.seek(0)
    head = file.read(16)
    seen = set()
    tags = ImageFileDirectory_v2(head if b"+" in head[2:4] else head[:8])
    while tags.next and tags.next not in seen:  # a damaged file may go round in circles
        seen.add(tags.next)
        file.seek(tags.next)
        tags.load(file)
        yield tags


def tiff_exif(file: IO[bytes]) -> "PillowImage.Exif":
    """The tags of the first page, and the Exif and GPS parts that they point to."""
    from PIL import Image as PillowImage

    file.seek(0)
    head = file.read(16)
    exif = PillowImage.Exif()
    exif.endian, exif.bigtiff = "<" if head[:1] == b"I" else ">", b"+" in head[2:4]
    exif.load_from_fp(file, struct.unpack_from(exif.endian + ("Q" if exif.bigtiff else "L"), head, 8 if exif.bigtiff else 4)[0])
    return exif


def needs_pillow(tags: Mapping[int, Any]) -> bool:
    """Whether the values of a TIFF's pixels are no brightness: palettes, 1 to 4 bits, CMYK, YCbCr, Lab. GDAL leaves them so."""
    return first(tags, PHOTOMETRIC, 1) not in _BRIGHTNESS or first(tags, _BITS, 1) < _BYTE


def add_tiff_tags(file: IO[bytes], icc: bytes | None, exif: bytes | None) -> None:
    """Add colour profile and the descriptive tags of an EXIF block to the first page of a TIFF, open for reading and writing.

    A new list of tags is written behind everything else; what the old entries point to stays where it is.
    """
    from PIL import Image as PillowImage
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    file.seek(0)
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = b"+" in head[2:4]
    count_of, entry_size, offset_of, at = ("Q", 20, "Q", 8) if big else ("H", 12, "L", 4)
    count_of, offset_of = order + count_of, order + offset_of

    def entries(content: bytes) -> tuple[dict[int, bytes], bytes]:
        start = struct.calcsize(count_of)
        end = start + entry_size * int(struct.unpack_from(count_of, content)[0])
        each = [content[i : i + entry_size] for i in range(start, end, entry_size)]
        return {struct.unpack_from(order + "H", entry)[0]: entry for entry in each}, content[
            end : end + struct.calcsize(offset_of)
        ]

    added = ImageFileDirectory_v2(head if big else head[:8])
    if exif is not None:
        block = PillowImage.Exif()
        block.load(exif)
        for tag in DESCRIPTIVE_TAGS & set(block):
            added[tag] = block.get_ifd(tag) if isinstance(block[tag], int) and tag in (0x8769, 0x8825) else block[tag]
    if icc is not None:
        added.tagtype[ICC_TAG] = _UNDEFINED
        added[ICC_TAG] = icc
    file.seek(struct.unpack_from(offset_of, head, at)[0])
    old, following = entries(file.read(2**20))
    end = _pad(file)
    content = added.tobytes(end)
    file.write(content)
    new, _ = entries(content)
    merged = old | new
    start = _pad(file)
    file.write(struct.pack(count_of, len(merged)) + b"".join(merged[tag] for tag in sorted(merged)) + following)
    file.seek(at)
    file.write(struct.pack(offset_of, start))


def _pad(file: IO[bytes]) -> int:
    end = file.seek(0, io.SEEK_END)
    return end + (file.write(b"\0") if end % 2 else 0)


def first(tags: Mapping[int, Any], tag: int, default: int) -> int:
    """A tag of one integer, or the first of several that are all alike."""
    value = tags.get(tag, default)
    return int(value[0]) if isinstance(value, tuple) else int(value)
