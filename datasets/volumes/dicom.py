"""DICOM series as volumes."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dicom_files import files_of, quiet
from .dicom_geometry import Slice, arrange, slices_of
from .streams import require_room
from .volume import Volume

logger = logging.getLogger(__name__)

_INT16, _INT32 = np.dtype(np.int16), np.dtype(np.int32)


@dataclass(frozen=True)
class Source:
    """The images that a volume came from: for each slice along k its header (without pixels), and its frame in that file."""

    headers: tuple[Any, ...]
    frames: tuple[int | None, ...]


def open_dicom(
    path: Path, series: str | None = None, *, channels: int | None = None, progress: Callable[[int, int], None] | None = None
) -> Volume:
    """Read a DICOM series, of one file for each slice or of multi-frame files (enhanced CT and MR), compressed or not.

    Slices are ordered by their positions along the normal of the image plane, and spaced by them; SliceThickness counts for a
    single slice only. Rescale slope and intercept are those of each slice: integers stay integers (int16 where all possible
    values fit, else int32), others become float32 (float64 from 32 bits). Padding, which no scanner measured, becomes the lowest
    value that was. MONOCHROME1 says how to show an image and changes no value (a warning tells of it).

    Args:
        path: A folder, or a file, which stands for its series in the folder.
        series: SeriesInstanceUID, or its end, of one of several in the folder.
        channels: how many are meant; a series has one.
        progress: is told the number of slices read, and of all.

    Raises:
        FileNotFoundError: a folder without DICOM images.
        ValueError: several series, no images of a volume, slices that make none (see ``arrange``), or damaged files.
        ImportError: pydicom is missing, or what decodes this compression.
    """
    with quiet():
        return _open(path, series, channels, progress)


def _open(path: Path, series: str | None, channels: int | None, progress: Callable[[int, int], None] | None) -> Volume:
    files = files_of(path, series)
    if channels not in (None, 1):
        raise ValueError(f"{path}: a DICOM series has one channel, expected {channels}")
    slices, affine = arrange([one for file in files for one in slices_of(file)], path)
    voxels, stored = _read(slices, path, progress)
    source = Source(tuple(one.file.header for one in slices), tuple(one.frame for one in slices))
    # (slice, row, column) in memory, seen as (column, row, slice).
    return Volume(voxels=voxels.transpose(2, 1, 0)[None], affine=affine, path=path, format="DICOM", stored=stored, header=source)


def _read(slices: Sequence[Slice], path: Path, progress: Callable[[int, int], None] | None) -> tuple[NDArray[Any], np.dtype[Any]]:
    """Voxels (slice, row, column) and their dtype in the files; one slice at a time, into the memory of the whole."""
    header = slices[0].file.header
    shape = (len(slices), int(header.Rows), int(header.Columns))
    for one in slices:
        _require_plain(one)
    if any(one.file.header.get("PhotometricInterpretation") == "MONOCHROME1" for one in slices):
        logger.warning("%s: MONOCHROME1, low values are shown white: they are kept as they are, where ITK turns them round", path)
    size = sum({one.file.path: one.file.path.stat().st_size for one in slices}.values())
    bits = np.dtype(f"u{max(int(header.get('BitsAllocated', 16)) // 8, 1)}")
    compressed = header.file_meta.TransferSyntaxUID.is_compressed if "TransferSyntaxUID" in header.file_meta else False
    require_room(shape, bits, size, "compressed" if compressed else "raw", path)
    voxels: NDArray[Any] | None = None
    padding: dict[int, NDArray[np.uint8]] = {}
    lowest: float | None = None
    stored = bits
    for k, (one, plane) in enumerate(zip(slices, _planes(slices, shape[1:]), strict=True)):
        if voxels is None:
            stored = plane.dtype.newbyteorder("=")
            voxels = np.empty(shape, _meant_dtype(slices, stored))
        np.multiply(plane, _of(voxels.dtype, one.slope), out=voxels[k], casting="unsafe", dtype=voxels.dtype)
        voxels[k] += _of(voxels.dtype, one.intercept)
        measured = voxels[k]
        if (hidden := _padding(one, plane)) is not None and hidden.any():
            padding[k] = np.packbits(hidden)
            measured = measured[~hidden]
        if measured.size:
            low = measured.min()
            lowest = low if lowest is None else min(lowest, low)
        if progress is not None:
            progress(k + 1, len(slices))
    assert voxels is not None
    if padding and lowest is not None:
        count = 0
        for k, packed in padding.items():
            hidden = np.unpackbits(packed, count=shape[1] * shape[2]).astype(bool).reshape(shape[1:])
            voxels[k][hidden] = lowest
            count += int(hidden.sum())
        logger.info("%s: %d voxels of padding set to %g, the lowest value that was measured", path, count, lowest)
    return voxels, stored


def _of(dtype: np.dtype[Any], value: float) -> Any:
    return dtype.type(int(value) if dtype.kind in "iu" else value)


def _require_plain(one: Slice) -> None:
    header = one.file.header
    stored, allocated = int(header.get("BitsStored", 16)), int(header.get("BitsAllocated", 16))
    high = int(header.get("HighBit", stored - 1))
    if allocated not in (8, 16, 32, 64) or not 1 <= stored <= allocated or high != stored - 1:
        raise ValueError(
            f"{one.file.path}: {stored} of {allocated} bits up to bit {high}, expected the lowest of 8, 16 or 32 bits"
        )


def _planes(slices: Sequence[Slice], shape: tuple[int, ...]) -> Iterator[NDArray[Any]]:
    """The stored values (row, column) of each slice; a file is opened once for all its frames that follow each other."""
    from pydicom.pixels import iter_pixels

    for path, run in groupby(slices, key=lambda one: one.file.path):
        frames = [one.frame or 0 for one in run]
        try:
            for plane in iter_pixels(path, indices=frames, raw=True):
                yield _checked(plane, shape)
        except Exception as error:  # decoders raise nearly every kind on damaged files
            text = " ".join(str(error).split())
            if "missing dependencies" in text:
                raise ImportError(f"{path}: {text}; pip install 'geovit[medical]'") from error
            raise ValueError(f"{path}: truncated or damaged pixels ({text})") from error


def _checked(plane: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if plane.shape != shape:
        raise ValueError(f"they decode to {plane.shape}, expected {shape} rows and columns")
    return plane if plane.dtype.isnative else plane.astype(plane.dtype.newbyteorder("="))


def _meant_dtype(slices: Sequence[Slice], stored: np.dtype[Any]) -> np.dtype[Any]:
    """Smallest dtype, of int16, int32 and floats, that holds whatever a slice can hold after rescaling; as stored without."""
    if stored.kind == "f" or all(one.slope == 1 and one.intercept == 0 for one in slices):
        return stored
    if not all(float(value).is_integer() for one in slices for value in (one.slope, one.intercept)):
        return np.dtype(np.float32 if stored.itemsize <= 2 else np.float64)
    low = high = 0
    for one in slices:
        bits = int(one.file.header.get("BitsStored", stored.itemsize * 8))
        signed = bool(one.file.header.get("PixelRepresentation", 0))
        ends = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        meant = [int(one.slope) * end + int(one.intercept) for end in ends]
        low, high = min(low, *meant), max(high, *meant)
    for dtype in (_INT16, _INT32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return dtype
    return np.dtype(np.float64)


def _padding(one: Slice, plane: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Where a slice says that nothing was measured."""
    header = one.file.header
    if plane.dtype.kind == "f" or header.get("PixelPaddingValue") is None:
        return None
    bits: int = plane.dtype.itemsize * 8

    def as_stored(value: Any) -> int:  # some writers give a negative number as an unsigned one, or the other way
        number: int = int(value) % 2**bits
        return number - 2**bits if plane.dtype.kind == "i" and number >= 2 ** (bits - 1) else number

    start = as_stored(header.PixelPaddingValue)
    end = as_stored(header.get("PixelPaddingRangeLimit", None) or header.PixelPaddingValue)
    low, high = min(start, end), max(start, end)
    return (plane >= low) & (plane <= high)
