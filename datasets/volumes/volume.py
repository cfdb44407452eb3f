"""An image with three spatial axes and its place in the patient."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Volume:
    """Voxels in the order of the file, and where they lie.

    Args:
        voxels: (channels, i, j, k), the values as they are meant (rescale slope and intercept applied). A 2-D image has one voxel
            on the last axis.
        affine: (4, 4), from voxel indices to millimetres to the right, front and top of the patient (RAS+, as in NIfTI).
        path: of the file, or of the folder of a DICOM series.
        format: "NIfTI", "NRRD" or "DICOM".
        stored: dtype of the voxels in the file, before rescaling.
        header: what the format's writer needs to write a map on the same grid: of that format alone, opaque to all else.
    """

    voxels: NDArray[Any]
    affine: NDArray[np.float64]
    path: Path | None = None
    format: str = "NIfTI"
    stored: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.float32))
    header: Any = None

    @property
    def size(self) -> tuple[int, int, int]:
        """Voxels on each axis."""
        i, j, k = self.voxels.shape[1:]
        return i, j, k

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between voxel centres on each axis."""
        i, j, k = (float(length) for length in np.linalg.norm(self.affine[:3, :3], axis=0))
        return i, j, k
