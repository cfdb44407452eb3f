"""NRRD files."""

import logging
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..sidecars import inside
from .streams import decompressed, read_head, read_voxels, require_room, skip
from .volume import Volume, check_affine

logger = logging.getLogger(__name__)

_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}  # fmt: skip
_NAMES = {"i1": "int8", "u1": "uint8", "i2": "int16", "u2": "uint16", "i4": "int32", "u4": "uint32", "i8": "int64",
          "u8": "uint64", "f4": "float", "f8": "double"}  # fmt: skip
_ENCODINGS = {"raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}
# What turns each space into right, anterior, superior.
_SPACES = {
    **dict.fromkeys(("right-anterior-superior", "ras"), (1, 1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (-1, 1, 1)),
    **dict.fromkeys(("left-posterior-superior", "lps"), (-1, -1, 1)),
}
_LPS = "left-posterior-superior"
_UNITS = {"mm": 1.0, "millimeter": 1.0, "millimeters": 1.0, "cm": 10.0, "m": 1e3, "meter": 1e3, "um": 1e-3, "micron": 1e-3}
_SPATIAL_KINDS = ("domain", "space")
_UNKNOWN_KINDS = ("none", "???")
_NO_REALS = ("complex", "rgb-color", "rgba-color", "hsv-color", "xyz-color")
_GZIP_LEVEL = 6


@dataclass(frozen=True)
class Frame:
    """How an NRRD file places its spatial axes, in its own words.

    Args:
        space: "left-posterior-superior", ...; None if the file does not say.
        directions: a row for each spatial axis, two or three, in the file's unit.
        origin: of the first voxel.
        units: of the space's axes; empty if not stated.
        spacings: what a file has instead of directions, or None.
    """

    space: str | None
    directions: NDArray[np.float64]
    origin: NDArray[np.float64]
    units: tuple[str, ...] = ()
    spacings: tuple[float, ...] | None = None


def open_nrrd(path: Path, *, channels: int | None = None) -> Volume:
    """Read an NRRD file, or the .nhdr of one in two parts; encoded raw, gzip or bzip2.

    The axis without a direction in space (or of another kind than "domain" or "space") is the one of channels. A file that does
    not state its space is taken as left, posterior, superior, as ITK takes it, with a warning in the log.

    Args:
        path: The file.
        channels: how many are meant; other numbers are refused.

    Raises:
        FileNotFoundError: the data file of an .nhdr is missing.
        ValueError: damaged, in an encoding other than these, voxels that are no real numbers, or placed nowhere.
    """
    with path.open("rb") as file:
        header = _header(file, path)
        shape, dtype, encoding = _facts(header, path)
        axis = _channel_axis(header, path)
        found = 1 if axis is None else shape[axis]
        if channels is not None and found != channels:
            told = " x ".join(map(str, shape))
            raise ValueError(
                f"{path}: {told} voxels have {found} channels, expected {channels} ({'3-D' if channels == 1 else '4-D'})"
            )
        frame = _frame(header, axis, path)
        affine = affine_of(frame, path)
        with _data(file, header, path) as (data, name):
            voxels = _voxels(data, header, shape, dtype, encoding, name)
    spatial = [i for i in range(len(shape)) if i != axis]
    voxels = voxels.transpose([*([] if axis is None else [axis]), *spatial])
    voxels = voxels if axis is not None else voxels[None]
    voxels = voxels if voxels.ndim == 4 else voxels[..., None]
    return Volume(voxels=voxels, affine=affine, path=path, format="NRRD", stored=dtype.newbyteorder("="), header=frame)


def _header(file: IO[bytes], path: Path) -> dict[str, Any]:
    try:
        import nrrd
    except ImportError as error:
        raise ImportError("NRRD needs pynrrd: pip install 'geovit[medical]'") from error
    try:
        header = dict(nrrd.read_header(file))
    except (nrrd.NRRDError, ValueError, TypeError, LookupError, StopIteration) as error:
        raise ValueError(f"{path}: damaged header: {' '.join(str(error).split())}") from error
    if missing := [name for name in ("type", "dimension", "sizes", "encoding") if name not in header]:
        raise ValueError(f"{path}: truncated, or its header is damaged: it lacks {', '.join(missing)}")
    return header


def _facts(header: Mapping[str, Any], path: Path) -> tuple[tuple[int, ...], np.dtype[Any], str]:
    name = str(header["type"]).lower()
    if name not in _TYPES:
        raise ValueError(f"{path}: {name} voxels, expected integers or floats of 8 to 64 bits")
    encoding = _ENCODINGS.get(str(header["encoding"]).lower())
    if encoding is None:
        raise ValueError(f"{path}: encoding {header['encoding']}, expected raw, gzip or bzip2")
    endian = str(header.get("endian", "")).lower()
    dtype = np.dtype(_TYPES[name])
    if endian not in ("big", "little") and dtype.itemsize > 1:
        raise ValueError(f"{path}: its header does not state the byte order (endian: big or little)")
    shape = tuple(int(size) for size in header["sizes"])
    if len(shape) != header["dimension"] or not 2 <= len(shape) <= 4:
        raise ValueError(f"{path}: {' x '.join(map(str, shape))} voxels, expected two or three axes and one of channels")
    return shape, dtype.newbyteorder(">" if endian == "big" else "<"), encoding


def _vectors(header: Mapping[str, Any]) -> list[NDArray[np.float64] | None] | None:
    """Directions of the axes, None for an axis without; None if the file has none at all."""
    given = header.get("space directions")
    if given is None:
        return None
    rows = [None if row is None else np.asarray(row, np.float64) for row in given]
    return [None if row is None or np.isnan(row).all() else row for row in rows]


def _channel_axis(header: Mapping[str, Any], path: Path) -> int | None:
    axes = int(header["dimension"])
    kinds = [str(kind).lower() for kind in header.get("kinds", ())] or ["none"] * axes
    vectors = _vectors(header)
    if len(kinds) != axes or (vectors is not None and len(vectors) != axes):
        raise ValueError(f"{path}: damaged header: {axes} axes, but {len(kinds)} kinds and {len(vectors or kinds)} directions")
    if strange := [kind for kind in kinds if kind in _NO_REALS]:
        raise ValueError(f"{path}: {strange[0]} voxels, expected real numbers")
    if vectors is not None:
        found = [axis for axis, vector in enumerate(vectors) if vector is None]
    else:
        found = [axis for axis, kind in enumerate(kinds) if kind not in (*_SPATIAL_KINDS, *_UNKNOWN_KINDS)]
    if len(found) > 1 or not 2 <= axes - len(found) <= 3:
        raise ValueError(
            f"{path}: {axes} axes of the kinds {', '.join(kinds)}, of which {axes - len(found)} lie in space; "
            "expected two or three, and at most one of channels"
        )
    return found[0] if found else None


def _frame(header: Mapping[str, Any], axis: int | None, path: Path) -> Frame:
    spatial = [i for i in range(int(header["dimension"])) if i != axis]
    vectors = _vectors(header)
    space = str(header["space"]) if "space" in header else None
    if vectors is None:
        given = header.get("spacings", [float("nan")] * (max(spatial) + 1))
        spacings = tuple(float(given[i]) for i in spatial)
        if np.isnan(spacings).any():
            raise ValueError(f"{path}: states neither space directions nor spacings, expected millimetres between voxels")
        return Frame(space, np.diag([*spacings, 1.0][:3]), np.zeros(3), spacings=spacings)
    directions = np.array([vectors[i] for i in spatial], np.float64)
    if directions.shape[1] not in (2, 3):
        raise ValueError(f"{path}: a space of {directions.shape[1]} dimensions, expected 2 or 3")
    origin = np.asarray(header.get("space origin", np.zeros(directions.shape[1])), np.float64)
    if origin.shape != (directions.shape[1],) or np.isnan(origin).any():
        raise ValueError(f"{path}: damaged header: space origin {origin.tolist()}")
    units = tuple(str(unit) for unit in header.get("space units", ()))
    return Frame(space, directions, origin, units)


def affine_of(frame: Frame, path: Path) -> NDArray[np.float64]:
    """The affine in RAS+ millimetres; errors as in ``open_nrrd``."""
    signs = _SPACES.get((frame.space or _LPS).lower())
    if frame.space is None or frame.directions.shape[1] == 2:
        logger.warning("%s: states no anatomical space: its axes are taken as left, posterior, superior", path)
    if signs is None:
        raise ValueError(f"{path}: space {frame.space}, expected right- or left-anterior-superior or {_LPS}")
    if len(set(frame.units)) > 1 or (frame.units and frame.units[0].lower() not in _UNITS and frame.units[0]):
        raise ValueError(f"{path}: space units {', '.join(frame.units)}, expected one of {', '.join(_UNITS)} for all axes")
    scale = _UNITS[frame.units[0].lower()] if frame.units and frame.units[0] else 1.0
    columns = np.zeros((3, 3))
    columns[: frame.directions.shape[1], : len(frame.directions)] = frame.directions.T * scale
    if len(frame.directions) == 2:
        normal = np.cross(columns[:, 0], columns[:, 1])
        columns[:, 2] = normal / max(float(np.linalg.norm(normal)), 1e-30)  # one millimetre thick
    affine = np.eye(4)
    affine[:3, :3] = columns
    affine[: len(frame.origin), 3] = frame.origin * scale
    affine = np.diag([*signs, 1.0]) @ affine
    check_affine(affine, str(path))
    return affine


@contextmanager
def _data(file: IO[bytes], header: Mapping[str, Any], path: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """The file with the voxels, standing where they begin."""
    name = header.get("data file", header.get("datafile"))
    if name is None:
        yield file, path
        return
    if str(name).upper().startswith("LIST") or "%" in str(name):
        raise ValueError(f"{path}: voxels in several files ({name}), expected one")
    place = inside(path, str(name))
    if not place.is_file():
        raise FileNotFoundError(f"{path}: its data file {place} is missing")
    with place.open("rb") as other:
        yield other, place


def _voxels(
    file: IO[bytes], header: Mapping[str, Any], shape: tuple[int, ...], dtype: np.dtype[Any], encoding: str, path: Path
) -> NDArray[Any]:
    lines = int(header.get("line skip", header.get("lineskip", 0)))
    count = int(header.get("byte skip", header.get("byteskip", 0)))
    for _ in range(lines):
        if not file.readline():
            raise ValueError(f"{path}: truncated: fewer lines than the {lines} to skip")
    size = path.stat().st_size
    require_room(shape, dtype, size - file.tell(), encoding, path)
    if count == -1 and encoding == "raw":  # the voxels are the end of the file
        file.seek(size - int(np.prod(shape)) * dtype.itemsize)
        count = 0
    if count < 0:
        raise ValueError(f"{path}: damaged header: byte skip {count} with encoding {encoding}")
    with decompressed(file, encoding) as stream:
        skip(stream, count, path)
        voxels = read_voxels(stream, shape, dtype, path)
        if encoding != "raw":
            read_head(stream, 1, path)  # the end, where the check sum is
    return voxels


def frame_of(affine: NDArray[np.float64]) -> Frame:
    """The frame of an affine in RAS+ millimetres, in the space of DICOM and ITK."""
    turned = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    return Frame(_LPS, turned[:3, :3].T.copy(), turned[:3, 3].copy(), ("mm", "mm", "mm"))


def write_nrrd(
    target: Path, voxels: NDArray[Any], like: Volume, dtype: np.dtype[Any], names: Mapping[int, str] | None = None
) -> None:
    """Write (i, j, k) or (i, j, k, channels) on the grid of ``like``, gzipped; equal voxels give equal bytes.

    Names are written as 3D Slicer reads them from segmentations.
    """
    frame = like.header if like.format == "NRRD" and isinstance(like.header, Frame) else frame_of(like.affine)
    flat = len(frame.spacings or frame.directions) == 2
    dtype = dtype.newbyteorder("<")
    channels = voxels.shape[3:]
    sizes = [*voxels.shape[: 2 if flat else 3], *channels]
    lines = [f"type: {_NAMES[dtype.str[1:]]}", f"dimension: {len(sizes)}"]
    if frame.space is not None:
        lines.append(f"space: {frame.space}")
    elif frame.spacings is None:
        lines.append(f"space dimension: {frame.directions.shape[1]}")
    lines.append(f"sizes: {' '.join(map(str, sizes))}")
    if frame.spacings is not None:
        lines.append("spacings: " + " ".join([*map(_number, frame.spacings), *["nan"] * len(channels)]))
    else:
        lines.append("space directions: " + " ".join([*map(_vector, frame.directions), *["none"] * len(channels)]))
    lines.append("kinds: " + " ".join(["domain"] * (len(sizes) - len(channels)) + ["list"] * len(channels)))
    lines += ["endian: little"] if dtype.itemsize > 1 else []
    lines.append("encoding: gzip")
    if frame.spacings is None:
        if frame.units:
            lines.append("space units: " + " ".join(f'"{unit}"' for unit in frame.units))
        lines.append(f"space origin: {_vector(frame.origin)}")
    for place, (value, name) in enumerate(sorted((names or {}).items())):
        told = " ".join(name.encode("ascii", "replace").decode().split())
        lines += [f"Segment{place}_LabelValue:={value}", f"Segment{place}_Name:={told}"]
    packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16)  # of itself without name and time
    with target.open("wb") as file:
        file.write(("NRRD0005\n" + "\n".join(lines) + "\n\n").encode("ascii"))
        for volume in np.moveaxis(voxels, -1, 0) if channels else [voxels]:
            for plane in np.moveaxis(volume, 2, 0):
                file.write(packer.compress(plane.astype(dtype).tobytes(order="F")))
        file.write(packer.flush())


def _number(value: float) -> str:
    return repr(float(value))


def _vector(values: NDArray[np.float64]) -> str:
    return f"({','.join(map(_number, values))})"
