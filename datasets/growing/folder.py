"""The hidden folder of an unfinished run: one process at a time, emptied and removed whole, results moved out of it."""

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..raster import GDAL_ERRORS
from ..writing import os_error

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_SIDECARS = (".aux.xml", ".ovr", ".msk")  # what GDAL reads beside a raster


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder if it is not there, and hold it against other processes. A killed process holds nothing.

    Raises:
        OSError: another process holds it, or it cannot be made.
    """
    file = _held(folder)
    try:
        yield
    finally:
        os.close(file)


def _held(folder: Path) -> int:
    while True:
        try:
            folder.mkdir(exist_ok=True)
            file = os.open(folder, os.O_RDONLY)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and folder.parent.is_dir():
                continue  # another process removed it in between
            raise os_error(folder, error) from error
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(file)
            busy = OSError(f"{folder}: another process is at this run")
            busy.errno = errno.EAGAIN
            raise busy from error
        except OSError:
            pass  # a file system without locks, such as some network file systems
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), folder.stat()):
                return file
        os.close(file)  # it was removed and made again: that one is to be held


def empty(folder: Path, *, last: str = "") -> None:
    """Make a folder, or remove what is in it, one of its files last."""
    folder.mkdir(parents=True, exist_ok=True)
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name == last):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def remove(folder: Path, *, last: str) -> None:
    """Remove a folder, one of its files last, and go on with that if interrupted once. What cannot be removed stays."""
    try:
        _remove(folder, last)
    except KeyboardInterrupt:
        _remove(folder, last)
        raise


def _remove(folder: Path, last: str) -> None:
    for entry in folder.glob("*"):
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
    with suppress(OSError):
        (folder / last).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def sidecars_of(file: Path) -> list[str]:
    """Return the endings of the files that lie beside a raster."""
    return [ending for ending in _SIDECARS if file.with_name(file.name + ending).exists()]


def move(made: Path, path: Path, sidecars: Sequence[str]) -> None:
    """Let a file and its sidecars appear, the file last; sidecars of what was there before go.

    Where it lies on another file system, it is copied beside its place first, so that it appears whole all the same.

    Args:
        made: the file, and beside it those sidecars that were not moved before.
        path: its place.
        sidecars: all that it has.
    """
    for ending in _SIDECARS:
        if ending not in sidecars:
            path.with_name(path.name + ending).unlink(missing_ok=True)
    for ending in (*_SIDECARS, ""):
        source, target = made.with_name(made.name + ending), path.with_name(path.name + ending)
        if not source.exists():
            continue
        try:
            source.replace(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            beside = target.with_name(f".{target.name}.copied")
            try:
                shutil.copyfile(source, beside)
                with beside.open("rb") as whole:
                    os.fsync(whole.fileno())
                beside.replace(target)
            finally:
                beside.unlink(missing_ok=True)
            source.unlink()


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Tell what the file system or GDAL refused in one line that names the file."""
    try:
        yield
    except (OSError, *GDAL_ERRORS) as error:
        raise os_error(path, error) from error
