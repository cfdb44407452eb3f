"""NIfTI files."""

import gzip
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .streams import compression, decompressed, read_head, read_voxels, require_room, skip
from .volume import Volume, check_affine, rescaled

logger = logging.getLogger(__name__)

_LENGTH_BITS = 7  # of xyzt_units
_UNITS = {0: ("millimetres, as nothing else is said", 1.0), 1: ("metres", 1e3), 2: ("millimetres", 1.0), 3: ("micrometres", 1e-3)}
_HEADS = {348: "NIfTI-1", 540: "NIfTI-2"}  # bytes of the header, which are its first number
_MAGIC = {348: (344, 4), 540: (4, 4)}
_MOST_AXES = 5
_DISAGREE = 0.1  # of the smallest spacing: corners that lie further apart by qform and sform are told
_GZIP_LEVEL = 6
_DAMAGED = 40  # level from which nibabel's findings are errors; it mends what is below


class _Named(logging.LoggerAdapter[logging.Logger]):
    """Tells of which file nibabel speaks."""

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        return f"{(self.extra or {})['path']}: {msg}", kwargs


def is_nifti(head: bytes) -> bool:
    """Whether these are the first bytes (348 or more) of a NIfTI header."""
    return header_bytes(head) is not None


def header_bytes(head: bytes) -> int | None:
    """Size of the header, in either byte order; None if it is none."""
    for order in ("<i4", ">i4"):
        size = int(np.frombuffer(head[:4].ljust(4, b"\0"), order)[0])
        if size in _HEADS:
            start, count = _MAGIC[size]
            if head[start : start + count - 1] in (b"n+1", b"ni1", b"n+2", b"ni2"):
                return size
    return None


def open_nifti(path: Path, *, channels: int | None = None) -> Volume:
    """Read a NIfTI-1 or NIfTI-2 file, .nii, .nii.gz or a pair of .hdr and .img.

    The sform places it if its code is not zero, else the qform; if both are there and put a corner further apart than a tenth of
    the smallest spacing, a warning is logged, and also if there is none. Lengths in metres or micrometres become millimetres.
    Voxels without scaling keep their dtype; ``rescaled`` tells what those with ``scl_slope`` and ``scl_inter`` become.

    Args:
        path: The file, either one of a pair.
        channels: how many are meant; other numbers are refused. Entries of the fourth axis are channels, or of the fifth if the
            fourth has one entry, as in vector images.

    Raises:
        FileNotFoundError: the other file of a pair is missing.
        ValueError: damaged, more axes than five, voxels that are no real numbers, or placed nowhere.
    """
    path = _of_pair(path, ".hdr") if _ending(path) == ".img" else path
    with path.open("rb") as file:
        encoding = compression(file.read(3))
        file.seek(0)
        with decompressed(file, encoding) as stream:
            header = _header(read_head(stream, 540, path), path)
    pair = bytes(header["magic"])[:2] == b"ni"
    data = _of_pair(path, ".img") if pair else path
    shape, dtype = _shape(header, path, channels), _dtype(header, path)
    affine = _affine(header, path)
    if not 0 <= header["vox_offset"] < np.inf:
        raise ValueError(f"{path}: damaged header: voxels from byte {header['vox_offset']}")
    offset = int(header["vox_offset"])
    with data.open("rb") as file:
        encoding = compression(file.read(3))
        require_room(shape, dtype, data.stat().st_size - (offset if encoding == "raw" else 0), encoding, data)
        file.seek(0)
        with decompressed(file, encoding) as stream:
            skip(stream, offset, data)
            voxels = read_voxels(stream, shape, dtype, data)
    slope, intercept = header.get_slope_inter()
    voxels = rescaled(voxels, 1.0 if slope is None else slope, 0.0 if intercept is None else intercept)
    voxels = np.moveaxis(voxels.reshape((*shape, 1, 1)[:4] if len(shape) < 4 else shape, order="F"), -1, 0)
    return Volume(voxels=voxels, affine=affine, path=path, format="NIfTI", stored=dtype.newbyteorder("="), header=header)


def _ending(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return name[name.rfind(".") :] if "." in name else ""


def _of_pair(path: Path, ending: str) -> Path:
    stem = path.name[: path.name.lower().rfind(_ending(path))] if _ending(path) else path.name
    for suffix in (ending, ending + ".gz", ending.upper()):
        other = path.with_name(stem + suffix)
        if other.is_file():
            return other
    raise FileNotFoundError(f"{path}: one of a pair of .hdr and .img files, but {stem + ending} is not beside it")


def _require_nibabel() -> None:
    try:
        import nibabel  # noqa: F401
    except ImportError as error:
        raise ImportError("NIfTI needs nibabel: pip install 'geovit[medical]'") from error


def _header(head: bytes, path: Path) -> Any:
    _require_nibabel()
    from nibabel.nifti1 import Nifti1Header, Nifti1PairHeader
    from nibabel.nifti2 import Nifti2Header, Nifti2PairHeader
    from nibabel.spatialimages import HeaderDataError

    size = header_bytes(head)
    if size is None or len(head) < size:
        raise ValueError(f"{path}: not a NIfTI file, or truncated in its header: {len(head)} bytes without its mark")
    start = _MAGIC[size][0]
    pair = head[start : start + 2] == b"ni"
    kinds = (Nifti1PairHeader if pair else Nifti1Header) if size == 348 else (Nifti2PairHeader if pair else Nifti2Header)
    try:
        header = kinds(head[:size], check=False)
        header.check_fix(logger=_Named(logger, {"path": path}), error_level=_DAMAGED)
    except (HeaderDataError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: damaged header: {' '.join(str(error).split())}") from error
    return header


def _shape(header: Any, path: Path, channels: int | None) -> tuple[int, ...]:
    """Sizes as (i, j, k) or (i, j, k, channels)."""
    axes = int(header["dim"][0])
    sizes = [int(size) for size in header["dim"][1 : axes + 1]]
    told = " x ".join(map(str, sizes))
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if len(sizes) == _MOST_AXES and sizes[3] == 1:
        del sizes[3]
    if not 2 <= len(sizes) <= 4:
        raise ValueError(f"{path}: {told} voxels, expected two or three axes and one of channels")
    shape = (*sizes, 1) if len(sizes) == 2 else tuple(sizes)
    found = shape[3] if len(shape) == 4 else 1
    if channels is not None and found != channels:
        raise ValueError(
            f"{path}: {told} voxels have {found} channels, expected {channels} ({'3-D' if channels == 1 else '4-D'})"
        )
    return shape


def _dtype(header: Any, path: Path) -> np.dtype[Any]:
    from nibabel.spatialimages import HeaderDataError

    try:
        dtype: np.dtype[Any] = header.get_data_dtype()
    except (HeaderDataError, KeyError) as error:
        raise ValueError(f"{path}: voxels of the unknown type {int(header['datatype'])}") from error
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        kind = "complex" if dtype.kind == "c" else "RGB" if dtype.names else str(dtype)
        raise ValueError(f"{path}: {kind} voxels, expected integers or floats of 8 to 64 bits")
    return dtype


def _affine(header: Any, path: Path) -> NDArray[np.float64]:
    """The affine in millimetres."""
    code = int(header["xyzt_units"]) & _LENGTH_BITS
    if code not in _UNITS:
        raise ValueError(f"{path}: lengths in the unknown unit {code}, expected metres, millimetres or micrometres")
    unit, millimetres = _UNITS[code]
    if millimetres != 1:
        logger.info("%s: lengths in %s, turned to millimetres", path, unit)
    scale = np.diag([millimetres] * 3 + [1.0])
    if header["sform_code"] > 0:
        affine = np.asarray(header.get_sform(), np.float64)
        if header["qform_code"] > 0:
            _tell_disagreement(header, affine, path)
    elif header["qform_code"] > 0:
        affine = np.asarray(header.get_qform(), np.float64)
    else:
        affine = np.asarray(header.get_base_affine(), np.float64)
        logger.warning("%s: states no orientation (sform and qform codes are 0): taken as left, front, top", path)
    with np.errstate(all="ignore"):  # of a damaged header
        affine = scale @ affine
    check_affine(affine, str(path))
    return affine


def _tell_disagreement(header: Any, sform: NDArray[np.float64], path: Path) -> None:
    try:
        qform = np.asarray(header.get_qform(), np.float64)
    except ValueError:  # a quaternion longer than one
        logger.warning("%s: the qform is damaged; the sform is taken", path)
        return
    last = [max(int(size), 1) - 1 for size in header["dim"][1:4]]
    corners = np.array([[i, j, k, 1] for i in (0, last[0]) for j in (0, last[1]) for k in (0, last[2])], np.float64)
    with np.errstate(all="ignore"):  # what is not finite is told, too
        apart = float(np.linalg.norm(corners @ (sform - qform).T, axis=1).max())
    if not apart <= _DISAGREE * float(np.linalg.norm(sform[:3, :3], axis=0).min()):
        logger.warning("%s: qform and sform disagree by up to %.3g mm; the sform is taken", path, apart)


def write_nifti(target: Path, voxels: NDArray[Any], like: Volume, dtype: np.dtype[Any]) -> None:
    """Write (i, j, k) or (i, j, k, channels) on the grid of ``like``, to .nii or .nii.gz by the suffix of ``target``.

    Equal voxels and headers give equal bytes.
    """
    header = _header_for(voxels.shape, dtype, like)
    stored = dtype.newbyteorder(header.endianness)
    with target.open("wb") as file:
        if target.name.lower().endswith(".gz"):
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=_GZIP_LEVEL, mtime=0) as stream:
                _write(stream, header, voxels, stored)
        else:
            _write(file, header, voxels, stored)


def _write(stream: Any, header: Any, voxels: NDArray[Any], dtype: np.dtype[Any]) -> None:
    stream.write(header.binaryblock)
    stream.write(bytes(int(header["vox_offset"]) - len(header.binaryblock)))  # among them the mark of no extensions
    for volume in np.moveaxis(voxels, -1, 0) if voxels.ndim == 4 else [voxels]:
        for plane in np.moveaxis(volume, 2, 0) if volume.ndim == 3 else [volume]:
            stream.write(plane.astype(dtype).tobytes(order="F"))


def _header_for(shape: tuple[int, ...], dtype: np.dtype[Any], like: Volume) -> Any:
    _require_nibabel()
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    if like.format == "NIfTI" and like.header is not None:
        wide = len(like.header.binaryblock) == 540
        header = (Nifti2Header if wide else Nifti1Header)(endianness=like.header.endianness)
        for field in ("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x",
                      "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "dim_info", "descrip", "aux_file"):  # fmt: skip
            header[field] = like.header[field]
        axes = int(like.header["dim"][0])
    else:
        header = (Nifti2Header if max(shape) > np.iinfo(np.int16).max else Nifti1Header)()
        header.set_data_shape(shape)
        header.set_qform(like.affine, code="scanner", strip_shears=True)
        header.set_sform(like.affine, code="scanner")
        header.set_xyzt_units("mm")
        axes = 3
    pixdim = header["pixdim"].copy()
    header.set_data_dtype(dtype.newbyteorder("="))
    header.set_data_shape(shape[:2] if axes == 2 and len(shape) == 3 else shape)
    if len(shape) > 3 or axes > 3:  # steps of time or of anything else but space
        pixdim[4:] = 1
    header["pixdim"] = pixdim
    header.set_slope_inter(1, 0)
    header["vox_offset"] = len(header.binaryblock) + 4
    return header
