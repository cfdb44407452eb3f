"""Arrays in MATLAB files: version 5 through scipy, version 7.3 (HDF5) through h5py."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from .hdf5 import hdf_errors, load_h5py, require_own

_HDF5 = b"\x89HDF\r\n\x1a\n"
_NUMERIC = re.compile(r"double|single|u?int\d+|float\d+|bool|logical|complex\d+")


def split_key(source: str) -> tuple[str, str | None] | None:
    """Split ``scene.mat`` or ``scene.mat:key`` into path and key; None if it is no MATLAB file name."""
    match = re.fullmatch(r"(.+\.mat)(?::(.+))?", source, flags=re.IGNORECASE)
    return (match[1], match[2]) if match else None


def load_array(path: str, key: str | None, *, wanted: str, fits: Callable[[tuple[int, ...]], bool]) -> NDArray[Any]:
    """The array ``key`` of a MATLAB file or, without a key, the only numeric one whose shape fits.

    Axes are in MATLAB's order: h5py shows version 7.3 arrays with the axes reversed, and this is undone here.

    Args:
        path: the file.
        key: name of the array; may be nested in version 7.3 (``group/name``).
        wanted: description of the shape for messages.
        fits: whether a shape, in MATLAB's order, will do.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a MATLAB file, no such key, no array or several arrays that fit, complex values.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with Path(path).open("rb") as file:
        head = file.read(520)
    hdf5 = head.startswith(_HDF5) or head[512:] == _HDF5  # MATLAB puts a text header of 512 bytes first
    shapes = _shapes_hdf5(path) if hdf5 else _shapes_v5(path)
    listing = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "no numeric array"
    if key is None:
        fitting = [name for name, shape in shapes.items() if fits(shape)]
        if not fitting:
            raise ValueError(f"{path}: no {wanted}; it holds {listing}")
        if len(fitting) > 1:
            choice = ", ".join(f"{name} {shapes[name]}" for name in fitting)
            raise ValueError(f"{path}: several arrays fit ({choice}): name one, for example {path}:{fitting[0]}")
        key = fitting[0]
    elif key not in shapes:
        raise ValueError(f"{path}: no array {key!r}; it holds {listing}")
    elif not fits(shapes[key]):
        raise ValueError(f"{path}: {key} has shape {shapes[key]}, expected {wanted}")
    array = _load_hdf5(path, key) if hdf5 else _load_v5(path, key)
    if array.dtype.kind not in "iufb":
        raise ValueError(f"{path}: {key} has data type {array.dtype}, expected real numbers")
    return array


def _shapes_v5(path: str) -> dict[str, tuple[int, ...]]:
    import scipy.io

    try:
        return {name: shape for name, shape, kind in scipy.io.whosmat(path) if _NUMERIC.fullmatch(kind)}
    except Exception as error:  # scipy lets errors of many kinds out of a damaged file
        raise ValueError(f"{path}: not a MATLAB file that scipy can read ({error})") from error


def _load_v5(path: str, key: str) -> NDArray[Any]:
    import scipy.io

    try:
        return np.asarray(scipy.io.loadmat(path, variable_names=[key])[key])
    except Exception as error:
        raise ValueError(f"{path}: truncated or damaged ({error})") from error


def _shapes_hdf5(path: str) -> dict[str, tuple[int, ...]]:
    h5py = load_h5py()
    shapes: dict[str, tuple[int, ...]] = {}

    def visit(name: str, node: Any) -> None:
        # Members of structs and cells live under groups and '#refs#': '/' in the name.
        if isinstance(node, h5py.Dataset) and not name.startswith("#") and (node.dtype.kind in "iufbc" or node.dtype.names):
            shapes[name] = tuple(node.shape[::-1])

    with hdf_errors(path), h5py.File(path, "r") as file:
        file.visititems(visit)
    return shapes


def _load_hdf5(path: str, key: str) -> NDArray[Any]:
    with hdf_errors(path), load_h5py().File(path, "r") as file:
        require_own(file[key], path)
        return np.asarray(file[key][()]).T


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Pixels of an array (rows, columns, bands) in memory."""

    array: NDArray[Any]
    block: tuple[int, int] = (256, 256)

    def read(self, bands: Sequence[int], window: Window | None) -> NDArray[np.float32]:
        """Bands (1-based, in the given order) as (C, h, w) float32, NaN where not finite."""
        rows, columns = (slice(None), slice(None)) if window is None else window.toslices()
        part = self.array[rows, columns][..., np.asarray(bands) - 1]
        values = np.ascontiguousarray(np.moveaxis(part, -1, 0), dtype=np.float32)
        return np.where(np.isfinite(values), values, np.float32(np.nan))
