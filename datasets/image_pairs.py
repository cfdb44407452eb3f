"""Which image files belong together: degraded ones and what they should become."""

import re
from dataclasses import dataclass
from pathlib import Path

from .images import find_images


@dataclass(frozen=True)
class ImagePair:
    """A file of how an image should look, and one of how it is given; None if that is to be made of the former."""

    name: str
    high: Path
    low: Path | None


def find_pairs(high: str, low: str | None = None) -> list[ImagePair]:
    """List the pairs of two files, folders or patterns, by name.

    Args:
        high: an image file, a folder of them, or a pattern such as ``pairs/*_sharp.png``.
        low: the same for the degraded images. Two files belong together if they have the same name without suffix, after which
            that of ``low`` may have a factor such as ``x2``; of two patterns, if what their stars stand for is the same.

    Raises:
        FileNotFoundError: if there is nothing, or nothing of it is an image.
        ValueError: if a file has no partner, or two files have one name.
    """
    highs = _named(high)
    if low is None:
        return [ImagePair(name, path, None) for name, path in highs.items()]
    lows = _named(low)
    if Path(high).is_file() and Path(low).is_file():
        lows = dict(zip(highs, lows.values(), strict=True))
    if not lows.keys() & highs.keys():
        plain = [re.sub(r"x\d+$", "", name) for name in lows]
        if len(set(plain)) == len(plain):
            lows = dict(zip(plain, lows.values(), strict=True))
    if alone := sorted(highs.keys() ^ lows.keys()):
        shown = ", ".join(alone[:3]) + (", ..." if len(alone) > 3 else "")
        raise ValueError(f"{len(alone)} of the images in {high} and {low} are without partner: {shown}")
    return [ImagePair(name, path, lows[name]) for name, path in highs.items()]


def _named(source: str) -> dict[str, Path]:
    """Files by their names, in that order: without suffix, or what the stars of a pattern stand for."""
    stars = re.compile("(.*)".join(map(re.escape, Path(source).name.split("*"))))
    named: dict[str, Path] = {}
    for file in find_images([source]):
        match = stars.fullmatch(file.name)
        parts = list(filter(None, match.groups())) if match else []
        name = "_".join(parts) or file.stem
        if name in named:
            raise ValueError(f"{source}: {named[name].name} and {file.name} would both be called {name}")
        named[name] = file
    return dict(sorted(named.items()))
