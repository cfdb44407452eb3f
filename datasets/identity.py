"""Which files were read or written: size, time and digest, so that another run can tell whether they are still the same."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any

from .matlab import split_key
from .raster import NotARasterError, data_file, open_raster
from .several import MOSAIC, STACK, named_files, parts_of

_WHOLE_BYTES = 2**28  # files up to here are hashed whole, in about a second
_PIECE = 2**20
_PIECES = 64
_PLACE = 2**16
_PLACES = 1024
_MOST_FILES = 10_000  # of a folder or mosaic; beyond, what is meant is hardly one input

SHA256 = "sha256"
SAMPLED = f"sha256 of {_PIECES} pieces of 1 MiB"  # evenly spread, the first and the last included, and of the size in decimals


@dataclass(frozen=True)
class FileIdentity:
    """A file as it was.

    Args:
        path: as it was given, or as GDAL names it.
        bytes: its size.
        modified: when it was changed last, RFC 3339 in UTC.
        method: what ``digest`` is of: ``SHA256`` of the whole file, or ``SAMPLED``.
        digest: in hexadecimals.
    """

    path: str
    bytes: int
    modified: str
    method: str
    digest: str

    def as_dict(self) -> dict[str, Any]:
        """JSON of it."""
        return asdict(self)


def identify(file: str | Path) -> FileIdentity:
    """Return what tells one file from another: up to 256 MiB it is hashed whole, beyond that in pieces.

    Raises:
        FileNotFoundError, OSError: it cannot be read.
    """
    path = Path(file)
    status = path.stat()
    whole = status.st_size <= _WHOLE_BYTES
    digest = sha256(path) if whole else _sampled(path, status.st_size)
    modified = datetime.fromtimestamp(status.st_mtime, timezone.utc).isoformat().replace("+00:00", "Z")
    return FileIdentity(str(file), status.st_size, modified, SHA256 if whole else SAMPLED, digest)


def differs(file: str | Path, known: Mapping[str, Any]) -> str:
    """Tell in what a file differs from what ``FileIdentity.as_dict`` once gave of it; empty if in nothing.

    Name and time do not matter. Nothing is hashed where the size tells.

    Raises:
        FileNotFoundError, OSError: it cannot be read.
    """
    size = Path(file).stat().st_size
    if size != known.get("bytes"):
        return f"{size} bytes instead of {known.get('bytes')}"
    found = identify(file)
    same = (found.method, found.digest) == (known.get("method"), known.get("digest"))
    return "" if same else "other content of the same size"


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, read piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _sampled(path: Path, size: int) -> str:
    digest = hashlib.sha256(str(size).encode())
    for piece in _pieces(path, size, _PIECES, _PIECE):
        digest.update(piece)
    return digest.hexdigest()


def _pieces(path: Path, size: int, count: int, length: int) -> Iterator[bytes]:
    """Bytes of a file: all of them, or if there are more than that, pieces spread evenly, the first and the last included."""
    starts = range(0, size, length) if size <= count * length else ((size - length) * k // (count - 1) for k in range(count))
    with path.open("rb") as stream:
        for start in starts:
            stream.seek(start)
            yield stream.read(length)


def content_of(source: str | Path | None) -> dict[str, Any] | None:
    """Return what tells whether an input still says the same, so that a run that was cut off may go on; JSON.

    Names of local files and their times do not count: an input that was touched, copied or moved is the same. Up to 256 MiB in
    all it is read whole; of larger ones 64 KiB are read in 1,024 places, fewer of each file if there are many, but its head and
    its end always: so going on with a scene of 40 GB does not begin with minutes of reading. What is missed that way is an input
    of which single pixels were set in place, without a change of size, head or end.

    Args:
        source: as for ``files_of``. None: no input, which is None.

    Raises:
        OSError: a file cannot be read.
        ValueError: as of ``files_of``.
    """
    if source is None:
        return None
    sizes = {file: Path(file).stat().st_size for file in files_of(str(source))}
    total = sum(sizes.values())
    digest = hashlib.sha256()
    for file, size in sizes.items():
        digest.update(f"{size} ".encode())
        count = max(_PLACES // len(sizes), 4) if total > _WHOLE_BYTES else -(-size // _PLACE)
        for piece in _pieces(Path(file), size, count, _PLACE):
            digest.update(piece)
    return {"named": _beside_paths(str(source)), "bytes": total, "digest": digest.hexdigest()}


def _beside_paths(source: str) -> str:
    """What a source says beside paths of local files: how they are joined, keys and layers; all of it if it is none."""
    for joint in (STACK, MOSAIC):
        if (parts := named_files(source, joint)) is not None:
            return joint + "".join(map(_beside_paths, parts))
    local = _local(source)
    return source if local is None else source[len(local) :]


def files_of(source: str) -> list[str]:
    """Return the local files that an input consists of: a header and its data, the parts of a mosaic, all files of a folder.

    Args:
        source: as it was given to a reader, with ``:key`` or ``:layer`` or without.

    Returns:
        Paths in order; none for what is no local file, such as a URL.

    Raises:
        ValueError: a folder or mosaic of more files than can be listed.
    """
    if (parts := parts_of(source)) is not None:
        if len(parts) > _MOST_FILES:
            raise ValueError(f"{source}: {len(parts)} files, at most {_MOST_FILES} can be told apart")
        return list(dict.fromkeys(file for part in parts for file in files_of(part)))
    name = _local(source)
    if name is None:
        return []
    local = Path(name)
    if local.is_dir():
        found = sorted(map(str, islice((path for path in local.rglob("*") if path.is_file()), _MOST_FILES + 1)))
    else:
        found = [str(local), *sorted(_of_raster(str(local)))]
        if local.suffix == ".xml" and local.with_suffix(".bin").is_file():  # weights of a model of OpenVINO
            found.append(str(local.with_suffix(".bin")))
    if len(found) > _MOST_FILES:
        raise ValueError(f"{source}: {len(found)} files, at most {_MOST_FILES} can be told apart")
    return list(dict.fromkeys(found))


def _local(source: str) -> str | None:
    """The file or folder that a source begins with; nothing else: a pipe would be waited for, a device read for ever."""
    return next((name for name in _without_key(source) if Path(name).is_file() or Path(name).is_dir()), None)


def _without_key(source: str) -> Iterator[str]:
    yield source
    matlab = split_key(source)
    if matlab is not None:
        yield matlab[0]
    path, colon, _ = source.rpartition(":")
    if colon and len(path) > 1:  # one letter is a Windows drive
        yield path


def _of_raster(path: str) -> list[str]:
    try:
        with open_raster(data_file(path)) as src:
            return [name for name in src.files if Path(name).is_file()]
    except (NotARasterError, ValueError, OSError):  # vectors, MATLAB files, tables
        return []
