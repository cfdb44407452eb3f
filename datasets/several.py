"""How several files are named as one source.

``tiles/*.tif`` and ``a.tif,b.tif`` are a mosaic, ``a.tif+b.tif`` are bands of one place.
"""

import glob
import re
from pathlib import Path

MOSAIC, STACK = ",", "+"
_MAGIC = re.compile(r"[*?]|\[[^\]]*\]")


def named_files(source: str, joint: str) -> list[str] | None:
    """Return the files that a source names, sorted where a pattern names them; None if it is not several of this kind.

    What exists under just this name is one file.

    Raises:
        FileNotFoundError: some of the files are there, and others are not.
    """
    words = [word.strip() for word in source.split(joint)]
    if _there(source) or not all(words):
        return None
    if len(words) == 1 and not (joint == MOSAIC and _is_pattern(source) and STACK not in source):
        return None
    missing = [word for word in words if not (_there(word) or _is_pattern(word) or "://" in word)]
    if missing and len(missing) < len(words):
        raise FileNotFoundError(f"{source}: no such file as {missing[0]}")
    if missing:
        return None
    found: list[str] = []
    for word in words:
        found += sorted(glob.glob(word)) if _is_pattern(word) else [word]
    return list(dict.fromkeys(found))


def parts_of(source: str) -> list[str] | None:
    """Return the files that a source of either kind names; None if it names one."""
    for joint in (STACK, MOSAIC):
        if (files := named_files(source, joint)) is not None:
            return files
    return None


def stem_of(source: str) -> str:
    """Return what names of results begin with: of a pattern the folder's name, of several files the first one's."""
    files = parts_of(source)
    if files is None:
        return Path(re.sub(r"(?i)(\.mat):.*", r"\1", source)).stem
    first = Path(re.split(f"[{MOSAIC}{STACK}]", source)[0].strip())
    if _is_pattern(str(first)):
        return _MAGIC.sub("", first.stem).strip("_-. ") or first.absolute().parent.name or "mosaic"
    return first.stem


def _is_pattern(word: str) -> bool:
    return "://" not in word and not word.startswith("/vsi") and _MAGIC.search(word) is not None and not _there(word)


def _there(word: str) -> bool:
    try:
        return word.startswith("/vsi") or Path(word).exists()
    except (OSError, ValueError):
        return False
