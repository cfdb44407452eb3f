"""NIfTI files."""

from pathlib import Path

import nibabel as nib
import numpy as np

from .volume import Volume


def open_nifti(path: Path) -> Volume:
    """Read a NIfTI file as a volume of one channel for each entry of its fourth axis."""
    image = nib.load(path)
    voxels = np.asanyarray(image.dataobj)
    voxels = voxels[None] if voxels.ndim == 3 else np.moveaxis(voxels, -1, 0)
    return Volume(
        voxels=voxels, affine=image.affine, path=path, format="NIfTI", stored=image.get_data_dtype(), header=image.header
    )
