"""Opening files of volumes, told apart by their content."""

from collections.abc import Callable
from pathlib import Path

from .dicom import open_dicom
from .dicom_files import is_dicom
from .nifti import is_nifti, open_nifti
from .nrrd import open_nrrd
from .paths import split_series
from .streams import compression, decompressed, read_head
from .volume import Volume

_HEAD = 352  # bytes in which every format shows what it is


def open_volume(path: str | Path, *, channels: int | None = None, progress: Callable[[int, int], None] | None = None) -> Volume:
    """Read a volume from a file, or from the folder of a DICOM series; what it is is told by content, not by name.

    Args:
        path: of a NIfTI file (.nii, .nii.gz, a pair of .hdr and .img), an NRRD file (.nrrd, .nhdr), a folder with one DICOM
            series, any file of a DICOM series, which stands for all of it, or ``folder:UID``, the series of that
            SeriesInstanceUID (or the end of it) among several.
        channels: how many are meant, such as 1 where a 4-D file is a mistake; others are refused.
        progress: is told the number of slices read of a DICOM series, and of all; the other formats are quick.

    Raises:
        FileNotFoundError: nothing there, or a folder without images.
        ValueError: damaged, of another type, or of a kind that is not supported; one line that starts with the path.
        ImportError: the library of that format is missing.
    """
    path = Path(path)
    named = split_series(path)
    if not path.exists() and not named:
        raise FileNotFoundError(f"{path}: no such file or folder")
    try:
        if path.is_dir() or named:
            return open_dicom(*(named or (path,)), channels=channels, progress=progress)
        kind, head = sniff(path)
        if kind == "DICOM":
            return open_dicom(path, channels=channels, progress=progress)
        if kind is not None:
            return (open_nifti if kind == "NIfTI" else open_nrrd)(path, channels=channels)
    except (OSError, ImportError):
        raise
    except Exception as error:  # in a damaged header any value can be anything, and fail wherever it is used first
        text = " ".join(str(error).split())
        if isinstance(error, ValueError) and text.startswith(str(named[0] if named else path if path.is_dir() else path.parent)):
            raise
        raise ValueError(f"{path}: truncated or damaged ({type(error).__name__}: {text})") from error
    raise ValueError(f"{path}: {_what(head)}, expected NIfTI, NRRD or DICOM")


def sniff(path: Path) -> tuple[str | None, bytes]:
    """Return "NIfTI", "NRRD" or "DICOM" by the first bytes of a file, None if it is none of them; and those bytes, unpacked.

    Raises:
        ValueError: damaged compression.
    """
    with path.open("rb") as file:
        encoding = compression(file.read(3))
        file.seek(0)
        with decompressed(file, encoding) as stream:
            head = read_head(stream, _HEAD, path)
    if is_nifti(head) or (encoding == "raw" and path.suffix.lower() == ".img" and path.with_suffix(".hdr").is_file()):
        return "NIfTI", head
    if encoding == "raw" and head.startswith(b"NRRD"):
        return "NRRD", head
    if encoding == "raw" and is_dicom(path):
        return "DICOM", head
    return None, head


_MARKS = {
    b"\x80": "a pickle, or begins like one",
    b"PK": "a zip archive",
    b"\x89PNG": "a PNG image",
    b"\x93NUMPY": "a NumPy array",
    b"ObjectType": "a MetaImage",
}


def _what(head: bytes) -> str:
    """What a file is that is no volume, as far as its first bytes tell."""
    if not head:
        return "empty, 0 bytes"
    if {int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")} & {348, 540}:
        return "a truncated NIfTI header" if len(head) < _HEAD else "an Analyze 7.5 file, which states no orientation"
    for mark, name in _MARKS.items():
        if head.startswith(mark):
            return name
    return "text" if all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in head) else "no image of a known kind"
