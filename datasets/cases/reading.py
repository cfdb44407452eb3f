"""A case in memory: its channels stacked, its label map checked against them."""

from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from ..volumes import Volume, open_volume
from .case import Case

TOLERANCE = 0.1  # of the finest spacing, by which the corners of two grids may differ: files round, and turn matrices into angles


def read_case(case: Case) -> tuple[Volume, NDArray[np.integer] | None]:
    """Read the image of a case, all channels, and its label map (i, j, k), None where it has none.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is none that can be read, grids differ by more than a tenth of a voxel, there is more than one
            channel where one is meant, or labels are not whole numbers.
    """
    volume = _image(case)
    if case.label is None:
        return volume, None
    label = open_volume(case.label, channels=1)
    if problem := grid_difference(label, volume):
        raise ValueError(f"{case.label} is on another grid than its image: {problem}")
    return volume, whole_numbers(label)


def _image(case: Case) -> Volume:
    if len(case.images) == 1:
        return open_volume(case.images[0])
    parts = [open_volume(path, channels=1) for path in case.images]
    first = parts[0]
    for path, part in zip(case.images, parts, strict=True):
        if problem := grid_difference(part, first):
            raise ValueError(f"{path} is on another grid than {case.images[0].name}: {problem}")
    return replace(first, voxels=np.concatenate([part.voxels for part in parts]))


def whole_numbers(label: Volume) -> NDArray[np.integer]:
    """Return a label map (i, j, k) of whole numbers, also of a file that holds them as floating point.

    Raises:
        ValueError: if there are other values.
    """
    values: NDArray[np.integer] = label.voxels[0]
    if values.dtype.kind in "iu":
        return values
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    strange = values[~(values == np.round(values))]
    if strange.size:
        raise ValueError(f"{label.path} has values such as {strange.flat[0]:g}; labels are whole numbers")
    if np.abs(values).max(initial=0) > np.iinfo(np.int32).max:
        raise ValueError(f"{label.path} has values up to {np.abs(values).max():g}; labels are small whole numbers")
    return values.astype(np.int32)


def grid_difference(one: Volume, other: Volume) -> str:
    """Say how the grids of two volumes differ, in a few words; empty if they are the same."""
    if one.size != other.size:
        return f"{_size(one)} and not {_size(other)} voxels"
    ends = np.array([[*corner, 1] for corner in product(*((0, n - 1) for n in one.size))], dtype=np.float64)
    apart = float(np.abs((one.affine - other.affine) @ ends.T).max())
    if apart <= TOLERANCE * min(one.spacing):
        return ""
    if not np.allclose(one.spacing, other.spacing, rtol=1e-2):
        return f"spacing {_mm(one.spacing)} and not {_mm(other.spacing)} mm"
    if (turned := axis_codes(one.affine)) != (meant := axis_codes(other.affine)):
        return f"orientation {turned} and not {meant}"
    return f"corners are up to {apart:.3g} mm apart"


def axis_codes(affine: NDArray[np.float64]) -> str:
    """Return the directions that are closest to the axes, such as "RAS"."""
    from nibabel.orientations import aff2axcodes

    return "".join(code or "?" for code in aff2axcodes(affine))


def _size(volume: Volume) -> str:
    return " x ".join(map(str, volume.size))


def _mm(spacing: tuple[float, float, float]) -> str:
    return " x ".join(f"{length:.4g}" for length in spacing)
