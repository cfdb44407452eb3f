"""Files that other files name.

What a user names is read, wherever it lies; a VRT that he names may name any sources, since that is what mosaics are. But a file
that is reached through another (metadata of a product, a list of cases, an item of a catalogue) lies in the folder of that other
one or below: data that were downloaded may not make us read what else there is on the machine. Links in the file system are the
user's own, and followed: stores of large files are made of them.
"""

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

_REMOTE = ("http", "https", "s3", "gs", "az", "abfs", "abfss")
_REMOTE_VSI = re.compile(r"/vsi(curl|s3|gs|az|adls|oss|swift)(_streaming)?/")


def is_remote(source: str) -> bool:
    """Whether a source is an address on the web or in an object store, as others than GDAL write it."""
    return "://" in source and urlsplit(source).scheme.lower() in _REMOTE


def inside(sidecar: Path, name: str) -> Path:
    """The file that a sidecar names, in its folder or below. It need not be there.

    Raises:
        ValueError: it lies elsewhere.
    """
    if not name or "\0" in name:
        raise ValueError(f"{sidecar}: names no file")
    folder = os.path.abspath(sidecar.parent)
    path = os.path.normpath(os.path.join(folder, name))
    if path != folder and not path.startswith(folder.rstrip(os.sep) + os.sep):
        raise ValueError(f"{sidecar}: names {name[:200]!r}, which lies outside of its folder")
    return sidecar.parent / os.path.relpath(path, folder)


def beside(sidecar: Path, name: str) -> Path:
    """The file of a plain name in the folder of a sidecar.

    Raises:
        ValueError: no plain name.
        FileNotFoundError: no such file.
    """
    if name in (".", "..") or any(mark in name for mark in ("/", "\\", ":")):
        raise ValueError(f"{sidecar}: names {name[:200]!r}, expected the name of a file in its folder")
    path = inside(sidecar, name)
    if not path.is_file():
        raise FileNotFoundError(f"{sidecar}: names {name!r}, which is not there")
    return path


def linked(sidecar: Path | str, href: str) -> str:
    """What GDAL is to open for a link in a sidecar: an address on the web or in an object store, or a file in its folder.

    Args:
        sidecar: a file, or the URL of one, which may name no file of this machine.
        href: the link, as an absolute one where the sidecar is remote.

    Raises:
        ValueError: a file elsewhere, a VRT (which may name files elsewhere), or a way of GDAL's to name other things.
    """
    if href.split("?", maxsplit=1)[0].lower().endswith(".vrt"):
        raise ValueError(f"{sidecar}: names {href[:200]!r}, a VRT, which only the user may name")
    if _REMOTE_VSI.match(href):
        return href
    if is_remote(href):
        return href
    scheme = urlsplit(href).scheme.lower() if "://" in href else ""
    if isinstance(sidecar, str):
        raise ValueError(f"{sidecar}: names {href[:200]!r}, expected an address of {', '.join(_REMOTE)}, as its own is one")  # noqa: TRY004
    if scheme == "file":
        href = unquote(urlsplit(href).path)
    elif scheme or href.startswith("/vsi") or re.match(r"\s*<|[A-Za-z0-9_]{2,}:", href):
        raise ValueError(f"{sidecar}: names {href[:200]!r}, expected a file in its folder or an address of {', '.join(_REMOTE)}")
    return str(inside(sidecar, href))
