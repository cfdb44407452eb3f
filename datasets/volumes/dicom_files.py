"""Which files of a folder make a DICOM series."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

MAGIC = b"DICM"  # after 128 bytes that mean nothing
_DICOMDIR = "1.2.840.10008.1.3.10"
_SUFFIXES = (".dcm", ".dicom", ".ima")
_TOLD = 4  # names in a message before "..."
_LONGEST = 80  # characters of a name, which in a damaged file may be anything
# Storage classes with pixels that are no image of the patient.
_NO_IMAGES = {
    "1.2.840.10008.5.1.4.1.1.66.4": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.481.2": "an RT dose",
}


@dataclass(frozen=True)
class DicomFile:
    """A file and its header, without pixels."""

    path: Path
    header: Any

    @property
    def series(self) -> tuple[str, str]:
        """What the files of a series share: its UID, and that of the frame of reference."""
        return str(self.header.get("SeriesInstanceUID", "")), str(self.header.get("FrameOfReferenceUID", ""))

    @property
    def instance(self) -> str:
        return instance_uid(self.header)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence pydicom's warnings: what matters of them becomes an error of ours."""
    noisy = logging.getLogger("pydicom")
    level = noisy.level
    noisy.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        noisy.setLevel(level)


def require_pydicom() -> None:
    """Raise an ImportError in one line, which names the extra, if pydicom is not there."""
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise ImportError("DICOM needs pydicom: pip install 'geovit[medical]'") from error


def is_dicom(path: Path) -> bool:
    """Whether a file says that it is DICOM: by its mark, or, in files without the preamble, by a first element and its suffix."""
    with path.open("rb") as file:
        head = file.read(132)
    return head[128:] == MAGIC or (path.suffix.lower() in _SUFFIXES and head[:2] in (b"\x02\x00", b"\x08\x00"))


def read_header(path: Path) -> Any:
    """Everything before the pixels.

    Raises:
        ValueError: damaged or truncated.
    """
    import pydicom

    try:
        with quiet():
            header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
            header.decode()  # also what would be read later
            return header
    except Exception as error:  # pydicom raises nearly every kind on damaged files
        raise ValueError(f"{path}: truncated or damaged DICOM ({' '.join(str(error).split())[:300]})") from error


def series_key(path: Path) -> tuple[str, str] | None:
    """What the files of a series share, of a file that may be damaged or no image (None)."""
    require_pydicom()
    import pydicom

    try:
        with quiet():
            header = pydicom.dcmread(
                path, stop_before_pixels=True, force=True, specific_tags=["SeriesInstanceUID", "FrameOfReferenceUID", "Rows"]
            )
    except Exception:  # noqa: BLE001 - the one who opens it will tell
        return None
    return DicomFile(path, header).series if "Rows" in header else None


def refusal(file: DicomFile) -> str | None:
    """Why a file is no slice of a volume; None if it is one."""
    header = file.header
    uid = class_uid(header)
    if uid in _NO_IMAGES:
        return f"{_NO_IMAGES[uid]}, not an image"
    if "Rows" not in header or "Columns" not in header:
        return f"no image ({class_name(header)})"
    if int(header.get("SamplesPerPixel", 1)) != 1 or str(header.get("PhotometricInterpretation", "")).startswith("PALETTE"):
        return f"a colour image ({header.get('PhotometricInterpretation')}), expected grey values"
    if "PerFrameFunctionalGroupsSequence" not in header and not (
        header.get("ImageOrientationPatient") and header.get("ImagePositionPatient")
    ):
        return f"no place in the patient (ImagePositionPatient, ImageOrientationPatient) is stated ({class_name(header)})"
    return None


def class_uid(header: Any) -> str:
    """What kind of object it is; from the file's own head where the data set hides it. Empty if neither tells."""
    return str(header.get("SOPClassUID", "") or getattr(header, "file_meta", {}).get("MediaStorageSOPClassUID", ""))


def instance_uid(header: Any) -> str:
    """Which object it is, likewise."""
    return str(header.get("SOPInstanceUID", "") or getattr(header, "file_meta", {}).get("MediaStorageSOPInstanceUID", ""))


def class_name(header: Any) -> str:
    """What a DICOM object is, in words."""
    from pydicom.uid import UID

    uid = class_uid(header)
    name = str(UID(uid).name if uid else f"modality {header.get('Modality', 'unknown')}")
    return " ".join(name.split())[:_LONGEST]


def files_of(path: Path, series: str | None = None) -> list[DicomFile]:
    """The files of one series, by name: of a folder, of the series that a file belongs to, or the one of those that is named.

    Args:
        path: A folder, or a file, which stands for its series in the folder.
        series: SeriesInstanceUID, or its end, of one of those in the folder.

    Raises:
        FileNotFoundError: a folder without DICOM images.
        ValueError: several series where one is meant, none that is named so, damaged files, or no images of volumes.
    """
    require_pydicom()
    folder = path if path.is_dir() else path.parent
    chosen = None if path.is_dir() else DicomFile(path, read_header(path))
    if chosen is not None and (why := refusal(chosen)):
        raise ValueError(f"{path}: {why}")
    found = _scan(folder, chosen)
    groups: dict[tuple[str, str], list[DicomFile]] = {}
    for file in found:
        groups.setdefault(file.series, []).append(file)
    if chosen is not None:
        return _without_localizers(_without_copies(groups[chosen.series], chosen), chosen)
    if series is not None:
        named = [key for key in groups if key[0] == series] or [key for key in groups if key[0].endswith(series)]
        if len(named) != 1:
            raise ValueError(f"{path}: {len(named)} series are named {series}; there are {_listed(groups)}")
        groups = {named[0]: groups[named[0]]}
    if len(groups) > 1:
        raise ValueError(f"{path}: {len(groups)} series, expected one; choose by FOLDER:UID or a file of it: {_listed(groups)}")
    (files,) = groups.values()
    return _without_localizers(_without_copies(files, None), None)


def _scan(folder: Path, chosen: DicomFile | None) -> list[DicomFile]:
    """Files of a folder that hold slices of volumes."""
    found, strange, refused = [], [], []
    for path in sorted(file for file in folder.iterdir() if file.is_file()):
        if chosen is not None and path == chosen.path:
            found.append(chosen)
            continue
        if not is_dicom(path):
            strange.append(path.name)
            continue
        file = DicomFile(path, read_header(path))
        if class_uid(file.header) == _DICOMDIR:
            continue
        if why := refusal(file):
            refused.append((path.name, why))
        else:
            found.append(file)
    if not found:
        if refused:
            raise ValueError(
                f"{folder}: no slices of a volume: {refused[0][0]} is {refused[0][1]}, of {len(refused)} DICOM files"
            )
        below = sum(path.is_dir() for path in folder.iterdir())
        raise FileNotFoundError(f"{folder}: no DICOM images in this folder ({len(strange)} other files, {below} folders)")
    if strange:
        logger.info("%s: %d files that are not DICOM are left out: %s", folder, len(strange), _few(strange))
    if refused:
        logger.info(
            "%s: %d DICOM files are no slices of a volume: %s", folder, len(refused), _few([f"{a} ({b})" for a, b in refused])
        )
    return found


def _without_copies(files: Sequence[DicomFile], chosen: DicomFile | None) -> list[DicomFile]:
    """Each instance once: the chosen file, or the first by name."""
    kept: dict[str, DicomFile] = {}
    if chosen is not None and chosen.instance:
        kept[chosen.instance] = chosen
    copies = []
    for file in files:
        other = kept.setdefault(file.instance or str(file.path), file)
        if other is not file:
            copies.append(f"{file.path.name} (as {other.path.name})")
    if copies:
        logger.warning("%s: %d files repeat an image and are left out: %s", files[0].path.parent, len(copies), _few(copies))
    return list(kept.values())


def _without_localizers(files: list[DicomFile], chosen: DicomFile | None) -> list[DicomFile]:
    localizers = [file for file in files if is_localizer(file.header)]
    if not localizers or len(localizers) == len(files) or chosen in localizers:
        return files
    names = _few([file.path.name for file in localizers])
    logger.warning("%s: %d localizers of the series are left out: %s", files[0].path.parent, len(localizers), names)
    return [file for file in files if file not in localizers]


def is_localizer(header: Any) -> bool:
    """Whether an image is one for planning others."""
    return "LOCALIZER" in (str(word).upper() for word in header.get("ImageType", None) or ())


def _listed(groups: dict[tuple[str, str], list[DicomFile]]) -> str:
    told = []
    for (uid, _), files in groups.items():
        header = files[0].header
        count = sum(int(file.header.get("NumberOfFrames", None) or 1) for file in files)
        described = str(header.get("SeriesDescription", "") or "without description")
        what = f"{header.get('Modality', '')} {described}{', localizer' if is_localizer(header) else ''}"
        told.append(f"{uid or '(no UID)'} ({count} slice{'' if count == 1 else 's'}, {what})")
    return "; ".join(told)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_TOLD]) + (", ..." if len(names) > _TOLD else "")
