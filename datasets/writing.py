"""Writing results: whole or not at all, rasters as Cloud Optimized GeoTIFF on the input's grid."""

import errno
import logging
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray

from .classes import ClassInfo, map_colors, map_names, map_type
from .grid import Grid
from .raster import GDAL_ERRORS, quiet_georeference, reason

logger = logging.getLogger(__name__)

_SIDECAR = ".aux.xml"  # where GDAL keeps what TIFF has no tag for: here the category names

_FULL_BYTES = 2**20


def _os_error(path: Path, why: str, code: int | None) -> OSError:
    error = OSError(f"cannot write {path}: {why}")  # one argument, so that str() shows no "[Errno N]"
    error.errno = code
    return error


def os_error(path: Path, error: Exception) -> OSError:
    """Say in one line that names ``path`` what the file system or GDAL refused; ``errno`` is kept where known."""
    if isinstance(error, OSError) and error.strerror:
        return _os_error(path, error.strerror, error.errno)
    # GDAL passes on that a write failed, not why.
    full = shutil.disk_usage(path.parent).free < _FULL_BYTES
    return _os_error(path, reason(error) + (" (the disk is full)" if full else ""), errno.ENOSPC if full else None)


def _check_target(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise _os_error(path, "it is a folder", errno.EISDIR)
    if not path.parent.is_dir():
        raise _os_error(path, f"{path.parent} is not a folder", errno.ENOENT)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: pass --overwrite")


def check_writable(paths: Iterable[str | Path], overwrite: bool = False) -> None:
    """Find out before long work whether results can be written; leaves nothing behind.

    Raises:
        FileExistsError: a result exists and may not be overwritten.
        OSError: a folder is missing or not writable, or a path is a folder.
    """
    for path in map(Path, paths):
        _check_target(path, overwrite)
        try:
            # Access rights are only half of it (read-only mounts, quotas): try.
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        except OSError as error:
            raise _os_error(path, error.strerror or str(error), error.errno) from error


def make_folder(folder: Path) -> None:
    """Make a folder for results if there is none. That a file lies there is told by ``check_writable``.

    Raises:
        OSError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        pass
    except OSError as error:
        raise OSError(f"cannot make the folder {folder}: {error.strerror}") from error


@contextmanager
def output_folder(folder: Path | None) -> Iterator[None]:
    """Make a folder for results, if one is named; if it is new and nothing comes to lie in it, it goes again.

    Raises:
        OSError: as of ``make_folder``.
    """
    new = folder is not None and not folder.exists()
    if folder is not None:
        make_folder(folder)
    try:
        yield
    finally:
        if new and folder is not None:
            with suppress(OSError):  # it holds results, or what an unfinished run has
                folder.rmdir()


@contextmanager
def atomic(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a path to write to; what was written there appears at ``path`` after success, and only then.

    The yielded path has the final name, in a hidden folder beside the result: renaming then stays on one file system, and
    GDAL's sidecars (``name.aux.xml``) come along while its temporary files do not. On any error, interrupts included, the
    hidden folder is removed.

    Raises:
        FileExistsError: ``path`` exists and ``overwrite`` is false.
        OSError: what the file system or GDAL refused, as one line that names ``path``; ``errno`` is kept where known.
    """
    path = Path(path)
    _check_target(path, overwrite)
    folder: Path | None = None
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        yield folder / path.name
        # The result last: while it is missing or old, a fresh sidecar beside it does no harm.
        stale = path.with_name(path.name + _SIDECAR)
        if not (folder / stale.name).exists():
            stale.unlink(missing_ok=True)
        for file in sorted(folder.iterdir(), key=lambda file: file.name == path.name):
            file.replace(path.with_name(file.name))
    except (OSError, *GDAL_ERRORS) as error:
        raise os_error(path, error) from error
    finally:
        if folder is not None:
            try:
                shutil.rmtree(folder, ignore_errors=True)
            except KeyboardInterrupt:
                shutil.rmtree(folder, ignore_errors=True)
                raise


def write_text_atomic(path: str | Path, text: str, overwrite: bool = False) -> None:
    """Write a UTF-8 text file (a report, say) whole or not at all; errors as in ``atomic``."""
    with atomic(path, overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_class_map(
    path: str | Path, values: NDArray[Any], grid: Grid, classes: Sequence[ClassInfo], *, overwrite: bool = False
) -> None:
    """Write class values (H, W), 0 where there is none, as a Cloud Optimized GeoTIFF on exactly ``grid``.

    uint8 if the largest class value fits, else uint16; nodata 0; colour table in the file; overviews by nearest neighbour.
    TIFF has no place for category names: they go into ``path``.aux.xml, where GDAL and QGIS look for them.

    Raises:
        ValueError: shape other than the grid's, or values that are no class.
        FileExistsError, OSError: as in ``atomic``.
    """
    strange = np.setdiff1d(values, [0, *(info.value for info in classes)])
    if len(strange):
        raise ValueError(f"{path}: values such as {strange[0]} are not among the classes")
    dtype = map_type(info.value for info in classes)
    if values.shape != grid.shape:
        raise ValueError(f"{path}: values of shape {values.shape} for a grid of {grid.shape}")
    profile = {
        "driver": "GTiff", "count": 1, "height": grid.height, "width": grid.width, "dtype": dtype,
        "crs": grid.crs, "transform": grid.transform, "nodata": 0, "tiled": True, "bigtiff": "IF_SAFER",
    }  # fmt: skip
    # The COG driver only copies: what it copies is a plain GeoTIFF in a folder of its own, which never leaves the temporary one.
    with atomic(path, overwrite) as target, quiet_georeference(), tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        plain = Path(scratch) / "plain.tif"
        with rasterio.open(plain, "w", **profile) as dst:
            dst.write_colormap(1, map_colors(classes))
            dst.write(values.astype(dtype), 1)
        write_category_names(plain, map_names(classes))
        rasterio.shutil.copy(plain, target, driver="COG", compress="DEFLATE", overview_resampling="NEAREST", bigtiff="IF_SAFER")
        with rasterio.open(target) as src:
            # GDAL keeps quiet about some write errors at closing, a full disk among them.
            if not np.array_equal(src.read(1), values):
                raise OSError(errno.EIO, "what was written does not read back the same")
            if not Grid.of(src).matches(grid):
                logger.warning("%s: GeoTIFF cannot hold this coordinate reference system exactly", path)


def write_category_names(raster: Path, names: Mapping[int, str]) -> None:
    """Write the names of a raster's values into the file beside it where GDAL and QGIS look for them: TIFF has no place."""
    root = ET.Element("PAMDataset")
    categories = ET.SubElement(ET.SubElement(root, "PAMRasterBand", band="1"), "CategoryNames")
    for value in range(max(names) + 1):
        ET.SubElement(categories, "Category").text = names.get(value, "")
    ET.ElementTree(root).write(raster.with_name(raster.name + _SIDECAR), encoding="utf-8")
