"""Label maps as DICOM segmentations of the series that they belong to."""

import logging
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dicom import Source
from .dicom_files import class_uid, instance_uid, quiet
from .volume import Volume

logger = logging.getLogger(__name__)

MOST_BINARY = 8  # segments: from there on a bit for each takes more room than a byte with a label
_MADE = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")  # where programs that hide names have emptied them
# What every image has, if only empty; such programs remove it.
_MAY_BE_EMPTY = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
                 "StudyTime", "ReferringPhysicianName")  # fmt: skip
_CLASSES = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4", "PT": "1.2.840.10008.5.1.4.1.1.128"}
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_LABEL_LENGTH = 64  # characters of a segment's label
_MAX_LABEL = 2**16 - 1
_SERIES_NUMBER = 9000  # apart from those of the scanner


def require_segmentable(path: Path, like: Volume) -> Source:
    """Return the images that a volume came from, if a DICOM-SEG can refer to them; call it before long work.

    Raises:
        ValueError: the volume came from no DICOM series, from images without SOPInstanceUID, or from several multi-frame files.
        ImportError: highdicom is missing.
    """
    source = like.header if isinstance(like.header, Source) else None
    if source is None:
        raise ValueError(f"{path}: a DICOM-SEG refers to a DICOM series, but {like.path} is {like.format}; use .nii.gz or .nrrd")
    if not all(instance_uid(header) for header in source.headers):
        raise ValueError(f"{path}: a DICOM-SEG cannot refer to {like.path}, whose images have no SOPInstanceUID; use .nii.gz")
    if source.frames[0] is not None and any(header is not source.headers[0] for header in source.headers):
        raise ValueError(f"{path}: a DICOM-SEG of several multi-frame files ({like.path}) is not supported; use .nii.gz")
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise ImportError("DICOM-SEG needs highdicom: pip install 'geovit[medical]'") from error
    return source


def write_dicom_seg(target: Path, labels_IJK: NDArray[Any], like: Volume, names: Mapping[int, str] | None = None) -> None:
    """Write labels (i, j, k) as a DICOM-SEG that references the slices of ``like``.

    Up to eight labels give a BINARY segmentation, which every viewer knows, with segments 1, 2, ... in the order of the labels;
    more give a LABELMAP (DICOM supplement 243), whose segments have the labels' own numbers. Labels in ``names`` have a segment
    even if no voxel has them; segments without a name are called "label N". The type of what they show is the generic "Tissue",
    as names say nothing that could be coded.

    Raises:
        ValueError: labels below 0 or above 65535, no label at all, or as for ``require_segmentable``.
    """
    source = require_segmentable(target, like)
    found = [int(value) for value in np.unique(labels_IJK)]
    if found[0] < 0 or found[-1] > _MAX_LABEL:
        raise ValueError(f"{target.name}: labels from {found[0]} to {found[-1]}, expected 0 to {_MAX_LABEL}")
    values = sorted({*found, *(names or {})} - {0})
    if not values:
        raise ValueError(f"{target.name}: no label and no name of one: a DICOM-SEG needs a segment, expected names")
    binary = len(values) <= MOST_BINARY
    numbers = dict(zip(values, range(1, len(values) + 1), strict=True)) if binary else {value: value for value in values}
    if any(value != number for value, number in numbers.items()):
        told = ", ".join(f"{value} is {number}" for value, number in numbers.items())
        logger.info("%s: segments of a DICOM-SEG are counted: label %s", target.name, told)
    table = np.zeros(max(values) + 1, np.uint8 if max(numbers.values()) <= np.iinfo(np.uint8).max else np.uint16)
    for value, number in numbers.items():
        table[value] = number
    headers, order = _images(source, target.name)
    frames_KJI = np.empty((len(order), like.size[1], like.size[0]), table.dtype)
    for frame, k in enumerate(order):
        frames_KJI[frame] = table[labels_IJK[:, :, k].T]
    titles = {number: (names or {}).get(value, f"label {value}") for value, number in numbers.items()}
    try:
        with quiet():  # pydicom tells of names of patients that are not in the standard's form
            made = _segmentation(headers, frames_KJI, titles, binary)
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        text = " ".join(str(error).split())
        raise ValueError(f"{target.name}: no DICOM-SEG can be made of the series {like.path} ({text}); use .nii.gz") from error
    with quiet():
        made.save_as(target)


def _images(source: Source, name: str) -> tuple[list[Any], list[int]]:
    """The images in the order that highdicom wants, and the index k of each of their frames."""
    first = source.headers[0]
    made = {word: _made_uid(first, word) for word in _MADE if not first.get(word)}
    hidden = sorted(set(made) - {"FrameOfReferenceUID"})
    if hidden:
        logger.warning(
            "%s: its images have no %s; new ones are made, so viewers may not find them together", name, ", ".join(hidden)
        )
    if source.frames[0] is None:
        return [_completed(header, made) for header in source.headers], list(range(len(source.headers)))
    order = sorted(range(len(source.frames)), key=lambda k: source.frames[k] or 0)
    return [_completed(first, made)], order


def _made_uid(header: Any, word: str) -> str:
    """The same for every segmentation of a series."""
    from pydicom.uid import generate_uid

    return str(generate_uid(entropy_srcs=[word, instance_uid(header)]))


def _completed(header: Any, made: Mapping[str, str]) -> Any:
    """A copy with what every image must have, empty where the file lacks it."""
    from pydicom.dataset import Dataset

    image = Dataset()
    image.update(header)
    for name in _MAY_BE_EMPTY:
        if name not in image:
            setattr(image, name, "")
    image.SOPClassUID = class_uid(header) or _CLASSES.get(str(image.get("Modality")), _SECONDARY_CAPTURE)
    image.SOPInstanceUID = instance_uid(header)
    for name, uid in made.items():
        setattr(image, name, uid)
    return image


def _segmentation(headers: list[Any], frames: NDArray[Any], names: Mapping[int, str], binary: bool) -> Any:
    import highdicom
    from highdicom.content import AlgorithmIdentificationSequence
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom.sr.codedict import codes
    from pydicom.uid import ExplicitVRLittleEndian

    try:
        own = version("geovit")
    except PackageNotFoundError:
        own = "unknown"
    algorithm = AlgorithmIdentificationSequence("geovit", codes.DCM.ArtificialIntelligence, own)
    described = [
        SegmentDescription(
            segment_number=number,
            segment_label=name[:_LABEL_LENGTH],
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Tissue,
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
        )
        for number, name in names.items()
    ]
    return Segmentation(
        source_images=headers,
        pixel_array=frames,
        segmentation_type="BINARY" if binary else "LABELMAP",
        segment_descriptions=described,
        series_instance_uid=highdicom.UID(),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="geovit",
        manufacturer_model_name="geovit",
        software_versions=own,
        device_serial_number="0",
        # Not compressed: run lengths are left to GDCM, whose encoder ends the process where they do not pay.
        transfer_syntax_uid=ExplicitVRLittleEndian,
        omit_empty_frames=bool(frames.any()),
        series_description="Segmentation by geovit",
    )
