"""Volumes: reading and writing NIfTI, NRRD and DICOM."""

from pathlib import Path

from .nifti import open_nifti
from .volume import Volume

__all__ = ["Volume", "open_volume"]


def open_volume(path: str | Path) -> Volume:
    """Read a volume from a file, or from the folder of a DICOM series."""
    return open_nifti(Path(path))
