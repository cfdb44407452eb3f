"""Which volumes a user means."""

import glob
from collections.abc import Hashable, Sequence
from pathlib import Path

from .dicom_files import is_dicom, series_key

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".hdr")


def find_volumes(inputs: Sequence[str | Path]) -> list[Path]:
    """Volumes of files, folders and glob patterns, in the order of the inputs, each once.

    A file is taken whatever its name; of several files of one DICOM series in a folder the first, which stands for all. A folder
    (not those below it) gives its NIfTI and NRRD files by name, without hidden ones, or itself if it holds DICOM files. A pattern
    (``*``, ``?``, ``[...]``, ``**`` for folders at any depth) gives the NIfTI and NRRD files and the DICOM folders that match.
    ``FOLDER:UID`` names one DICOM series of several in a folder, as for ``open_volume``.

    Raises:
        FileNotFoundError: an input that is nothing, or has no volume in it.
        ValueError: a folder with both NIfTI or NRRD and DICOM files.
    """
    found: dict[Hashable, Path] = {}
    for given in inputs:
        for match in _matches(str(given)):
            found.setdefault(_identity(match), match)
    return list(found.values())


def split_series(path: Path) -> tuple[Path, str] | None:
    """Folder and UID of ``FOLDER:UID``; None if a path is not of this form."""
    folder, colon, series = str(path).rpartition(":")
    return (Path(folder), series) if colon and series and not path.exists() and Path(folder).is_dir() else None


def _matches(given: str) -> list[Path]:
    path = Path(given)
    if path.is_file() or split_series(path):
        return [path]
    if path.is_dir():
        return _in_folder(path)
    if not glob.has_magic(given):
        raise FileNotFoundError(f"{given}: no such file or folder")
    matches = sorted(map(Path, glob.glob(given, recursive=True)))
    taken = [match for match in matches if _is_volume(match) or (match.is_dir() and _holds_dicom(match))]
    if not taken:
        raise FileNotFoundError(f"{given}: no volume matches this pattern (looked for {', '.join(SUFFIXES)} and DICOM folders)")
    return taken


def _in_folder(folder: Path) -> list[Path]:
    volumes = sorted(file for file in folder.iterdir() if _is_volume(file))
    series = _holds_dicom(folder)
    if volumes and series:
        raise ValueError(f"{folder}: holds both DICOM and {len(volumes)} NIfTI or NRRD files, expected one kind; name the files")
    if not volumes and not series:
        below = sum(path.is_dir() for path in folder.iterdir())
        looked = f"looked for {', '.join(SUFFIXES)} and DICOM" + (f", not in its {below} folders" if below else "")
        raise FileNotFoundError(f"{folder}: no volume in this folder ({looked})")
    return volumes or [folder]


def _is_volume(path: Path) -> bool:
    name = path.name.lower()
    if not name.endswith(SUFFIXES) or name.startswith(".") or not path.is_file():
        return False
    # Other formats have headers of this suffix, too; one of NIfTI has its voxels beside it.
    return not name.endswith(".hdr") or any(path.with_suffix(suffix).is_file() for suffix in (".img", ".img.gz"))


def _holds_dicom(folder: Path) -> bool:
    return any(is_dicom(file) for file in folder.iterdir() if file.is_file() and not _is_volume(file))


def _identity(path: Path) -> Hashable:
    key = series_key(path) if path.is_file() and is_dicom(path) else None
    return path.resolve() if key is None else (path.resolve().parent, *key)
