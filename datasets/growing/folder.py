"""The hidden folder of an unfinished run: one process at a time, emptied and removed whole, results moved out of it."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

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
        except FileNotFoundError:
            if folder.parent.is_dir():
                continue  # another process removed it in between
            raise
        except OSError as error:
            refused = OSError(f"cannot make the folder {folder}: {error.strerror}")
            refused.errno = error.errno
            raise refused from error
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


def empty(folder: Path) -> None:
    """Make a folder, or remove what is in it."""
    folder.mkdir(parents=True, exist_ok=True)
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def remove(folder: Path) -> None:
    """Remove a folder, and go on with that if interrupted once. What cannot be removed stays."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def move(made: Path, path: Path) -> None:
    """Let a file and its sidecars appear, the file last; sidecars of what was there before go.

    Where it lies on another file system, it is copied beside its place first, so that it appears whole all the same.
    """
    for ending in _SIDECARS:
        if not made.with_name(made.name + ending).exists():
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
            beside = target.with_name(f".{target.name}.unfinished")
            try:
                shutil.copyfile(source, beside)
                with beside.open("rb") as whole:
                    os.fsync(whole.fileno())
                beside.replace(target)
            finally:
                beside.unlink(missing_ok=True)
            source.unlink()
