"""Names of files as users write them, and files that a product names itself."""

import re
from pathlib import Path

_NAMED = re.compile(r"(.+\.(?:nc4?|cdf|h5|he5|hdf5?))(?::(.+))?", flags=re.IGNORECASE)


def split_variable(source: str) -> tuple[str, str | None]:
    """Split ``file.nc:variable`` into path and variable; the variable is None where none is named."""
    match = _NAMED.fullmatch(source)
    return (match[1], match[2]) if match else (source, None)


def beside(sidecar: Path, name: str) -> Path:
    """The file that a sidecar names, which must lie in its own folder.

    Only plain names will do: a product that was downloaded may not make us read what the user did not name. Links in the file
    system are the user's own, and followed: stores of large files are made of them.

    Raises:
        ValueError: it names a file elsewhere.
        FileNotFoundError: no such file.
    """
    if not name or name in (".", "..") or any(mark in name for mark in ("/", "\\", "\0", ":")):
        raise ValueError(f"{sidecar}: names {name[:200]!r}, expected the name of a file in its folder")
    path = sidecar.parent / name
    if not path.is_file():
        raise FileNotFoundError(f"{sidecar}: names {name!r}, which is not there")
    return path
