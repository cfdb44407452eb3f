"""Pixels in Zarr stores."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from ..grid import Grid
from ..sidecars import is_remote
from .rasters import SCL_HIDDEN

# What zarr lets out of metadata that it takes for its own arguments; those of each array are read when it is come to.
_DAMAGED = (TypeError, AttributeError, KeyError, IndexError, UnicodeError, RuntimeError)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


@dataclass(frozen=True)
class ZarrImage:
    """An image of an array. Opened for each call."""

    store: str
    path: str
    at: tuple[int, ...]  # along the axes before band, y and x
    order: tuple[int, int, int]  # of band, y and x among the last three axes
    fill: float | None
    block: tuple[int, int] = (256, 256)  # height and width of chunks

    def read(self, bands: Sequence[int], window: Window | None) -> NDArray[np.float32]:
        (top, bottom), (left, right) = ((None, None), (None, None)) if window is None else window.toranges()
        first, last = min(bands) - 1, max(bands)
        parts: dict[int, Any] = dict(zip(self.order, (slice(first, last), slice(top, bottom), slice(left, right)), strict=True))
        with opened(self.store) as root:
            array = root[self.path] if self.path else root
            try:
                cube = np.asarray(array[(*self.at, *(parts[i] for i in range(3)))])
            except Exception as error:
                # An address fails in the way of its library.
                if not (is_remote(self.store) or isinstance(error, RuntimeError | OSError | KeyError)):
                    raise
                raise ValueError(f"{self.store}/{self.path}: cannot be read ({_line(error)})") from error
        cube = cube.transpose(self.order)[[band - 1 - first for band in bands]]
        values: NDArray[np.float32] = cube.astype(np.float32)
        if self.fill is not None:
            values[cube == self.fill] = np.nan
        values[~np.isfinite(values)] = np.nan
        return values


def is_zarr(path: Path) -> bool:
    """Whether a path is a Zarr store, version 2 or 3: a folder, or a zip archive named so."""
    names = ("zarr.json", ".zgroup", ".zarray", ".zmetadata")
    return path.name.endswith(".zarr.zip") or any((path / name).is_file() for name in names)


@contextmanager
def opened(store: str) -> Iterator[Any]:
    """The root of a store, a group or an array: of a folder, a zip archive, or an address that fsspec reads.

    Raises:
        FileNotFoundError: no such store.
        ValueError: damaged, out of reach, or something to read it with is not installed.
    """
    try:
        import zarr
    except ImportError as error:
        raise ValueError("Zarr stores are read by zarr: pip install 'geovit[foundation]'") from error
    remote = is_remote(store)
    if not remote and not Path(store).exists():
        raise FileNotFoundError(f"{store}: no such file")
    try:
        archive = zarr.storage.ZipStore(store, mode="r") if store.endswith(".zip") and not remote else None
        root = zarr.open(archive or store, mode="r")
    except ImportError as error:
        raise ValueError(
            f"{store}: Zarr stores at addresses need fsspec, with aiohttp for https://, s3fs for s3://, gcsfs for gs:// and adlfs"
            f" for az:// and abfs:// ({_line(error)})"
        ) from error
    except (ValueError, KeyError, OSError, BadZipFile, *_DAMAGED) as error:
        if remote and isinstance(error, FileNotFoundError):
            raise FileNotFoundError(f"{store}: no Zarr store there") from error
        raise ValueError(f"{store}: no Zarr store that can be read ({_line(error)})") from error
    except Exception as error:
        if not remote:
            raise
        raise ValueError(f"{store}: cannot be reached ({_line(error)})") from error  # each kind of address fails in its own way
    try:
        yield root
    except _DAMAGED as error:
        raise ValueError(f"{store}: damaged ({_line(error)})") from error
    finally:
        if archive is not None:
            archive.close()


@dataclass(frozen=True)
class ZarrPlane:
    """Whole numbers (height, width) of an array: classes, or a mask."""

    store: str
    path: str
    at: tuple[int, ...]
    grid: Grid

    @property
    def where(self) -> str:
        """The array, for messages."""
        return f"{self.store}/{self.path}"

    def numbers(self, rows: slice, columns: slice) -> NDArray[np.int64]:
        """Return a part of it."""
        with opened(self.store) as root:
            codes: NDArray[np.int64] = np.asarray(root[self.path][(*self.at, rows, columns)]).astype(np.int64)
        return codes


class ZarrLabels(ZarrPlane):
    """Classes, 0 where there is none."""

    def read(self, window: Window | None = None) -> NDArray[np.int64]:
        """Return classes (height, width)."""
        if window is None:
            return self.numbers(slice(None), slice(None))
        (top, bottom), (left, right) = window.toranges()
        return self.numbers(slice(top, bottom), slice(left, right))


class ZarrScl(ZarrPlane):
    """Sentinel-2's scene classification on the grid of the image."""

    def read(self, window: Window, shape: tuple[int, int], of: tuple[int, int]) -> NDArray[np.bool_]:
        """Return True where pixels are hidden."""
        del shape, of  # both are those of the plane
        (top, bottom), (left, right) = window.toranges()
        hidden: NDArray[np.bool_] = np.isin(self.numbers(slice(top, bottom), slice(left, right)), SCL_HIDDEN)
        return hidden
