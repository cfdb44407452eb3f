"""Images and what they should become: which files belong together, and their pixels in memory."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .images import find_images, open_image

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601

Pixels = NDArray[Any]


@dataclass(frozen=True)
class ImagePair:
    """A file of how an image should look, and one of how it is given; None if that is to be made of the former."""

    name: str
    high: Path
    low: Path | None


@dataclass(frozen=True, eq=False)
class Pair:
    """An image (H, W, C), or None, and what it is to become (scale * H, scale * W, C); both of uint8 or both of uint16."""

    name: str
    source: Pixels | None
    target: Pixels


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


def fitting(high: Pixels, low: Pixels | None, scale: int, pair: ImagePair) -> Pixels:
    """Return (scale * H, scale * W, C) of an image for the degraded one (H, W, C): without the rows and columns that are over.

    Raises:
        ValueError: if nothing is left, or that of ``low`` is another size.
    """
    height, width = (size - size % scale for size in high.shape[:2])
    if not (height and width):
        raise ValueError(f"{pair.high}: {_size(high)} pixels are less than the scale of {scale}")
    if low is not None and (height, width) != tuple(scale * size for size in low.shape[:2]):
        raise ValueError(f"{pair.low}: {_size(low)} pixels at scale {scale} are not the {height} x {width} of {pair.high.name}")
    return np.ascontiguousarray(high[:height, :width])


def read_pairs(
    targets: str,
    sources: str | None = None,
    *,
    scale: int,
    channels: int,
    degrade: Callable[[Pixels], Pixels] | None = None,
) -> list[Pair]:
    """Read target images and their sources.

    Args:
        targets: a folder, a file, or a pattern such as ``pairs/*_sharp.png``.
        sources: the same for the sources, which go with the targets by name as in ``find_pairs``.
        scale: target pixels for each source pixel. Targets lose the rows and columns that are over.
        channels: 1 takes the luma of colour images, 3 repeats grey ones; other numbers must be those of the files.
        degrade: makes a source of a target where there are no files of them; without it such sources are None.

    Raises:
        FileNotFoundError: if there are no images.
        ValueError: if two images do not belong together, or one has other channels, or other values than 8 or 16 bits.
    """
    pairs = []
    for found in find_pairs(targets, sources):
        target = _read(found.high, channels)
        source = None if found.low is None else _read(found.low, channels)
        target = fitting(target, source, scale, found)
        if source is not None and source.dtype != target.dtype:
            raise ValueError(f"{found.low} holds {source.dtype}, but {found.high.name} {target.dtype}")
        if source is None and degrade is not None:
            source = degrade(target)
        pairs.append(Pair(found.name, source, target))
    return pairs


def _read(file: Path, channels: int) -> Pixels:
    pixels = open_image(file).pixels
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{file}: values are {pixels.dtype}, expected 8 or 16 bits")
    if channels == 3 and pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if channels == 1 and pixels.shape[2] == 3:
        luma: Pixels = (pixels @ np.array(_LUMA)).round().astype(pixels.dtype)[..., None]
        return luma
    if pixels.shape[2] != channels:
        raise ValueError(f"{file}: {pixels.shape[2]} channels, but the network takes {channels}")
    return pixels


def _size(pixels: Pixels) -> str:
    return f"{pixels.shape[0]} x {pixels.shape[1]}"
