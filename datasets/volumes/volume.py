"""An image with three spatial axes and its place in the patient."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_SPACING, MAX_SPACING = 1e-4, 1e3  # mm: finer than a light microscope, and half a patient in one voxel
_FLAT = 1e-3  # of the volume of a box with the same edges: a voxel flatter than this spans no space


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


def check_finite(volume: Volume) -> None:
    """Refuse voxels that are no numbers.

    Raises:
        ValueError: some voxels are NaN or infinite, with their count.
    """
    if volume.voxels.dtype.kind != "f":
        return
    # Plane by plane: a mask of the whole would cost a quarter of the memory again.
    nan = infinite = 0
    for channel in volume.voxels:
        for plane in np.moveaxis(channel, -1, 0):
            if not np.isfinite(plane).all():
                nan += int(np.isnan(plane).sum())
                infinite += int(np.isinf(plane).sum())
    if nan or infinite:
        raise ValueError(
            f"{volume.path}: {nan} voxels are NaN and {infinite} infinite, of {volume.voxels.size}; expected finite values"
        )


def check_affine(affine: NDArray[np.float64], name: str) -> None:
    """Refuse an affine (4, 4) in millimetres that places no volume.

    Raises:
        ValueError: entries that are not finite, a spacing out of 0.0001 to 1000 mm, or axes that lie in one plane.
    """
    if not np.isfinite(affine).all():
        raise ValueError(f"{name}: the affine has entries that are not finite, expected millimetres")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not ((spacing >= MIN_SPACING) & (spacing <= MAX_SPACING)).all():
        told = " x ".join(f"{length:g}" for length in spacing)
        raise ValueError(f"{name}: voxels of {told} mm, expected {MIN_SPACING:g} to {MAX_SPACING:g} mm on each axis")
    if abs(np.linalg.det(affine[:3, :3] / spacing)) < _FLAT:
        raise ValueError(f"{name}: the affine is singular, its axes lie in one plane")


def rescaled(voxels: NDArray[Any], slope: float, intercept: float) -> NDArray[Any]:
    """Values as they are meant: float32 for up to 16 bits and float32, else float64; unchanged if there is nothing to do."""
    if slope == 1 and intercept == 0:
        return voxels
    fine = voxels.dtype.itemsize <= 2 or voxels.dtype == np.float32
    scaled: NDArray[Any] = voxels.astype(np.float32 if fine else np.float64)
    scaled *= slope
    scaled += intercept
    return scaled
