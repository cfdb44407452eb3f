"""Images to train and validate restoration on, in memory: targets, and what is to be restored to them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .image_pairs import find_pairs
from .images import open_image

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601

Pixels = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Pair:
    """An image (H, W, C), or None, and what it is to become (scale * H, scale * W, C); both of uint8 or both of uint16."""

    name: str
    source: Pixels | None
    target: Pixels


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
        scale: target pixels for each source pixel. Without ``sources``, targets lose the rows and columns that are over.
        channels: 1 takes the luma of colour images, 3 repeats grey ones; other numbers must be those of the files.
        degrade: makes a source of a target where there are no files of them; without it such sources are None.

    Raises:
        FileNotFoundError: if there are no images.
        ValueError: if two images do not belong together, or one has other channels, or other values than 8 or 16 bits.
    """
    pairs = []
    for found in find_pairs(targets, sources):
        target = _read(found.high, channels)
        if found.low is not None:
            source = _read(found.low, channels)
            _check(source, target, scale, found.low, found.high)
            pairs.append(Pair(found.name, source, target))
        else:
            height, width = (size - size % scale for size in target.shape[:2])
            if not (height and width):
                raise ValueError(f"{found.high}: {_size(target)} pixels are less than the scale of {scale}")
            target = np.ascontiguousarray(target[:height, :width])
            pairs.append(Pair(found.name, degrade(target) if degrade else None, target))
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


def _check(source: Pixels, target: Pixels, scale: int, source_file: Path, target_file: Path) -> None:
    if target.shape[:2] != tuple(scale * size for size in source.shape[:2]):
        raise ValueError(
            f"{source_file}: {_size(source)} pixels at scale {scale} are not the {_size(target)} of {target_file.name}"
        )
    if source.dtype != target.dtype:
        raise ValueError(f"{source_file} holds {source.dtype}, but {target_file.name} {target.dtype}")


def _size(pixels: Pixels) -> str:
    return f"{pixels.shape[0]} x {pixels.shape[1]}"
