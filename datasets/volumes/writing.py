"""Writing label maps and probabilities on the grid of a volume, whole or not at all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..writing import atomic
from .dicom_seg import require_segmentable, write_dicom_seg
from .nifti import write_nifti
from .nrrd import write_nrrd
from .volume import Volume

FORMATS = {".nii.gz": "NIfTI", ".nii": "NIfTI", ".nrrd": "NRRD", ".dcm": "DICOM"}


def write_labels(
    path: str | Path,
    labels_IJK: NDArray[Any],
    like: Volume,
    *,
    names: Mapping[int, str] | None = None,
    dtype: DTypeLike | str = "auto",
    overwrite: bool = False,
) -> None:
    """Write a label map on the own grid of a volume, in the format of the suffix.

    NIfTI from NIfTI keeps affine, shape, orientation, qform and sform with their codes, and units; NRRD from NRRD keeps space,
    directions, origin and units; otherwise they are written in the other format's own way, in millimetres. A .dcm is a DICOM-SEG
    that references the series of the volume. Equal labels give equal bytes in NIfTI and NRRD.

    Args:
        path: .nii.gz, .nii, .nrrd, or .dcm if the volume came from DICOM.
        labels_IJK: (i, j, k) integers on the grid of ``like``.
        like: The volume.
        names: of the label values; written where the format has a place (NRRD, DICOM-SEG).
        dtype: of the file. "auto": the stored dtype of ``like`` if that is an integer type which holds all labels, else the
            smallest unsigned integer type that does (signed if there are negative labels). DICOM-SEG has its own.
        overwrite: whether an existing file is replaced.

    Raises:
        ValueError: a suffix that is none of these, another shape, no integers, labels that ``dtype`` does not hold, or a
            DICOM-SEG of a volume that came from no DICOM series.
        FileExistsError, OSError: as in ``geovit.datasets.atomic``; the file is then absent or what it was.
    """
    path = Path(path)
    labels = np.asarray(labels_IJK)
    format_ = check_format(path, like)
    if labels.dtype.kind not in "iub":
        raise ValueError(f"{path}: labels of {labels.dtype}, expected integers")
    if labels.shape != like.size:
        raise ValueError(f"{path}: labels of shape {labels.shape} for a volume of {like.size}")
    chosen = label_dtype(labels, like) if isinstance(dtype, str) and dtype == "auto" else _checked(labels, np.dtype(dtype), path)
    with atomic(path, overwrite) as target:
        if format_ == "DICOM":
            write_dicom_seg(target, labels, like, names)
        elif format_ == "NRRD":
            write_nrrd(target, labels, like, chosen, names)
        else:
            write_nifti(target, labels, like, chosen)


def label_dtype(labels: NDArray[Any], like: Volume) -> np.dtype[Any]:
    """The dtype that ``write_labels`` chooses: the volume's own if it is of integers and holds the labels, else the smallest."""
    low, high = int(labels.min()), int(labels.max())
    choices = [like.stored] if like.stored.kind in "iu" else []
    choices += [np.dtype(f"{'u' if low >= 0 else ''}int{bits}") for bits in (8, 16, 32, 64)]
    return next(dtype for dtype in choices if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max)


def _checked(labels: NDArray[Any], dtype: np.dtype[Any], path: Path) -> np.dtype[Any]:
    low, high = int(labels.min()), int(labels.max())
    if dtype.kind not in "iu" or low < np.iinfo(dtype).min or high > np.iinfo(dtype).max:
        raise ValueError(f"{path}: {dtype} does not hold labels from {low} to {high}")
    return dtype


def write_volume(path: str | Path, voxels_CIJK: NDArray[Any], like: Volume, *, overwrite: bool = False) -> None:
    """Write real-valued channels, such as probabilities, as float32 on the own grid of a volume.

    One channel is written as 3-D, more as a fourth axis.

    Args:
        path: .nii.gz, .nii or .nrrd.
        voxels_CIJK: (channels, i, j, k) on the grid of ``like``.
        like: The volume.
        overwrite: whether an existing file is replaced.

    Raises:
        ValueError: a suffix that is none of these, or another shape.
        FileExistsError, OSError: as in ``geovit.datasets.atomic``; the file is then absent or what it was.
    """
    path = Path(path)
    voxels = np.asarray(voxels_CIJK)
    format_ = check_format(path, like)
    if format_ == "DICOM":
        raise ValueError(f"{path}: DICOM-SEG holds labels only; .nii.gz, .nii and .nrrd hold real values")
    if voxels.shape[1:] != like.size or not len(voxels):
        raise ValueError(f"{path}: values of shape {voxels.shape} for a volume of {like.size}, expected (channels, i, j, k)")
    arranged = voxels[0] if len(voxels) == 1 else np.moveaxis(voxels, 0, -1)
    with atomic(path, overwrite) as target:
        writer = write_nrrd if format_ == "NRRD" else write_nifti
        writer(target, arranged, like, np.dtype(np.float32))


def check_format(path: str | Path, like: Volume | None = None) -> str:
    """Return the format of a suffix: "NIfTI", "NRRD" or "DICOM".

    Raises:
        ValueError: as for ``write_labels``.
    """
    name = Path(path).name.lower()
    format_ = next((format_ for suffix, format_ in FORMATS.items() if name.endswith(suffix)), None)
    if format_ is None:
        raise ValueError(f"{path}: unknown suffix {Path(path).suffix!r}, expected one of {', '.join(FORMATS)}")
    if format_ == "DICOM" and like is not None:
        require_segmentable(Path(path), like)
    return format_
