"""Volumes: reading and writing NIfTI, NRRD and DICOM.

Nothing here imports nibabel, pynrrd, pydicom or highdicom before it is needed.
"""

from .paths import find_volumes
from .reading import open_volume
from .volume import Volume, check_finite
from .writing import check_format, label_dtype, write_labels, write_volume

__all__ = [
    "Volume",
    "check_finite",
    "check_format",
    "find_volumes",
    "label_dtype",
    "open_volume",
    "write_labels",
    "write_volume",
]
