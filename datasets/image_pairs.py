"""Which image files belong together: degraded ones and what they should become."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".ppm", ".pgm")


@dataclass(frozen=True)
class ImagePair:
    """A file of how an image should look, and one of how it is given; None if that is to be made of the former."""

    name: str
    high: Path
    low: Path | None


def find_pairs(high: str, low: str | None = None) -> list[ImagePair]:
    """List the pairs of two folders or patterns, by name.

    Args:
        high: an image file, a folder of them, or a pattern such as ``pairs/*_sharp.png`` of files that lie in one folder.
        low: the same for the degraded images. Two files belong together if they have the same name without suffix, after which
            that of ``low`` may have a factor such as ``x2``; of two patterns, if what their stars stand for is the same.

    Raises:
        FileNotFoundError: if there is no such folder, or nothing in it is an image.
        ValueError: if a file has no partner, or two files have one name.
    """
    highs = _named(high)
    if low is None:
        return [ImagePair(name, path, None) for name, path in highs.items()]
    if not _is_pattern(high) and Path(high).is_file() and Path(low).is_file():
        return [ImagePair(Path(high).stem, Path(high), Path(low))]
    lows = _named(low)
    if not lows.keys() & highs.keys():
        plain = [re.sub(r"x\d+$", "", name) for name in lows]
        if len(set(plain)) == len(plain):
            lows = dict(zip(plain, lows.values(), strict=True))
    if alone := sorted(highs.keys() ^ lows.keys()):
        shown = ", ".join(alone[:3]) + (", ..." if len(alone) > 3 else "")
        raise ValueError(f"{len(alone)} of the images in {high} and {low} are without partner: {shown}")
    return [ImagePair(name, path, lows[name]) for name, path in highs.items()]


def _is_pattern(source: str) -> bool:
    return "*" in Path(source).name


def _named(source: str) -> Mapping[str, Path]:
    path = Path(source)
    if _is_pattern(source):
        expression = re.compile("(.*)".join(map(re.escape, path.name.split("*"))))
        candidates = path.parent.iterdir() if path.parent.is_dir() else ()
        matches = [(match, file) for file in candidates if (match := expression.fullmatch(file.name))]
        found = [("_".join(filter(None, match.groups())), file) for match, file in matches]
    elif path.is_dir():
        found = [(file.stem, file) for file in path.iterdir()]
    else:
        found = [(path.stem, path)]
    images = sorted((name, file) for name, file in found if file.is_file() and file.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise FileNotFoundError(f"no image at {source}: expected a file, a folder or a pattern with *")
    named = dict(images)
    if len(named) < len(images):
        twice = next(name for i, (name, _) in enumerate(images) if i and name == images[i - 1][0])
        raise ValueError(f"{source}: two images are called {twice}")
    return named
