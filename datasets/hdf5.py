"""HDF5 files for reading: one handle per process, nothing but the file itself, and damage as one line of error."""

import os
import posixpath
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_CHUNK_CACHE = 2**26  # bytes for each file: windows smaller than a chunk would decompress it again and again
_MAX_OBJECTS = 10_000
_MAX_TEXT = 2**20  # characters of an attribute
_MAX_LIST = 2**16  # numbers of an attribute or a coordinate along bands


def is_hdf5(path: str) -> bool:
    """Whether a local file begins as HDF5 does (NetCDF 4 and HDF-EOS 5 are HDF5)."""
    try:
        with Path(path).open("rb") as file:
            return file.read(len(_SIGNATURE)) == _SIGNATURE
    except (OSError, ValueError):
        return False


def looks(path: str, like: Callable[[Any], bool]) -> bool | None:
    """What a test says of the root group of a file: False of what is not HDF5, None where it is damaged or h5py is missing."""
    if not is_hdf5(path):
        return False
    try:
        with hdf_errors(path), load_h5py().File(path, "r", locking="best-effort") as file:
            return like(file)
    except (ImportError, ValueError):
        return None


class HdfFile:
    """An HDF5 file. Opened when first read from, and again in every process that it is sent or forked to.

    Opening costs more than reading a window does, and the chunks that a window shares with the next stay decompressed. Threads
    may share it: h5py lets one of them in at a time.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._opened: tuple[int, Any, dict[str, Any]] | None = None  # process, root, datasets: their chunks stay with them

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_opened": None}

    def root(self) -> Any:
        """The root group.

        Raises:
            ValueError: damaged; FileNotFoundError: it is not there.
        """
        process = os.getpid()
        if self._opened is None or self._opened[0] != process:
            h5py = load_h5py()
            if not Path(self.path).is_file():
                raise FileNotFoundError(f"{self.path}: no such file")
            with hdf_errors(self.path):
                # Libraries of climate centres forbid locks on their file systems; nobody writes a product anyway.
                self._opened = process, h5py.File(self.path, "r", rdcc_nbytes=_CHUNK_CACHE, locking="best-effort"), {}
        return self._opened[1]

    def close(self) -> None:
        """Close it here; reading opens it again."""
        if self._opened is not None and self._opened[0] == os.getpid():
            self._opened[1].close()
        self._opened = None

    def dataset(self, name: str) -> Any:
        """The dataset of a path within the file.

        Raises:
            ValueError: there is none, or its numbers lie in another file.
        """
        with hdf_errors(self.path):
            root = self.root()
            assert self._opened is not None
            held = self._opened[2]
            if name not in held:
                held[name] = find(root, name)
        if held[name] is None:
            raise ValueError(f"{self.path}: no dataset {name}")
        return held[name]


@contextmanager
def hdf_errors(path: str) -> Iterator[None]:
    """Raise what h5py raises on damage as a ValueError of one line."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError, OverflowError, UnicodeDecodeError, MemoryError) as error:
        raise ValueError(f"{path}: truncated or damaged ({' '.join(str(error).split())})") from error


def load_h5py() -> Any:
    """The library; it is optional."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError("HDF5 and NetCDF 4 files need h5py: pip install 'geovit[hyperspectral]'") from error
    return h5py


def find(root: Any, name: str) -> Any | None:
    """The dataset of a path; None where there is none, or what is there is no dataset of real numbers.

    Soft links and links to other files are not followed (a soft link may lead through one of the others), and datasets are
    refused whose numbers lie in other files: a product may not make us read what the user did not name.

    Raises:
        ValueError: the dataset is stored in other files.
    """
    node = _node(root, name)
    if not isinstance(node, load_h5py().Dataset) or node.dtype.kind not in "iuf":
        return None
    require_own(node, root.file.filename)
    return node


def has(root: Any, name: str) -> bool:
    """Whether there is a group or dataset of a path in the file itself."""
    return _node(root, name) is not None


def _node(root: Any, name: str) -> Any | None:
    h5py = load_h5py()
    node = root
    for part in name.strip("/").split("/"):
        if not isinstance(node, h5py.Group) or not isinstance(node.get(part, getlink=True), h5py.HardLink):
            return None
        node = node[part]
    return node


def require_own(dataset: Any, path: str) -> None:
    """Raise a ValueError if a dataset keeps its numbers in other files."""
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{path}: the numbers of {dataset.name} lie in other files, which is not supported")


def require_contained(path: str) -> None:
    """Raise a ValueError if a file links to others or keeps numbers in them, for libraries that would go there.

    Nothing is looked at where h5py is not installed.
    """
    try:
        h5py = load_h5py()
    except ImportError:
        return
    with hdf_errors(path), h5py.File(path, "r", locking="best-effort") as file:
        for name, node in _walk(file):
            if isinstance(node, h5py.ExternalLink):
                raise ValueError(f"{path}: {name} links to another file, which is not supported")  # noqa: TRY004
            if isinstance(node, h5py.Dataset):
                require_own(node, path)


def datasets(root: Any) -> dict[str, Any]:
    """All datasets of real numbers in a file by path, links to other files left out.

    Raises:
        ValueError: there are more than 10,000 objects.
    """
    kind = load_h5py().Dataset
    return {name: node for name, node in _walk(root) if isinstance(node, kind) and node.dtype.kind in "iuf"}


def _walk(root: Any) -> Iterator[tuple[str, Any]]:
    """Every group and dataset once, and every link to another file, by path. h5py's own walk swallows errors of its visitor."""
    h5py = load_h5py()
    pending, seen = [("", root)], {hash(root.id)}
    while pending:
        prefix, group = pending.pop()
        for name in group:
            path, link = posixpath.join(prefix, name), group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                yield path, link
            # A soft link may close a circle; what it names is found at its own place.
            if not isinstance(link, h5py.HardLink) or hash((node := group[name]).id) in seen:
                continue
            seen.add(hash(node.id))
            if len(seen) > _MAX_OBJECTS:
                raise ValueError(f"{root.file.filename}: more than {_MAX_OBJECTS} objects")
            if isinstance(node, h5py.Group):
                pending.append((path, node))
            yield path, node


def text(node: Any, key: str) -> str | None:
    """An attribute as text; None if there is none, or it is something else."""
    value = _attribute(node, key)
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    return value.strip("\0 \r\n\t") if isinstance(value, str) and len(value) <= _MAX_TEXT else None


def numbers(node: Any, key: str) -> NDArray[np.float64] | None:
    """An attribute as numbers (n,), also of text such as "1 2 3"; None if there is none, or it is something else."""
    value = _attribute(node, key)
    if (told := text(node, key)) is not None:
        try:
            value = [float(word) for word in told.replace(",", " ").split()]
        except ValueError:
            return None
    array = np.asarray([] if value is None else value).reshape(-1)
    if array.dtype.kind not in "iufb" or not 0 < array.size <= _MAX_LIST:
        return None
    return array.astype(np.float64)


def number(node: Any, key: str) -> float | None:
    """An attribute as a finite number; None if there is none."""
    found = numbers(node, key)
    return float(found[0]) if found is not None and found.size == 1 and np.isfinite(found[0]) else None


def _attribute(node: Any, key: str) -> Any:
    if key not in node.attrs:
        return None
    shape = node.attrs.get_id(key).shape
    if shape is not None and int(np.prod(shape, dtype=object)) > _MAX_LIST:
        return None
    return node.attrs[key]


def column(dataset: Any, count: int) -> NDArray[np.float64]:
    """A dataset of ``count`` numbers along the bands.

    Raises:
        ValueError: it has another shape.
    """
    if tuple(dataset.shape) != (count,) or count > _MAX_LIST:
        raise ValueError(f"{dataset.file.filename}: {dataset.name} has shape {dataset.shape}, expected ({count},)")
    return np.asarray(dataset[()], dtype=np.float64)


def masked(values: NDArray[Any], fills: Sequence[float]) -> NDArray[np.float32]:
    """Float32 of numbers as a file holds them, NaN where they are not finite or one of ``fills``."""
    result: NDArray[np.float32] = values.astype(np.float32)
    for fill in fills:
        result[values == np.asarray(fill).astype(values.dtype)] = np.nan
    result[~np.isfinite(result)] = np.nan
    return result
