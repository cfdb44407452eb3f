"""Folders of images to train and validate restoration on: targets, and what is to be restored to them."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .images import Image, find_images, open_image

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601

Pixels = NDArray[Any]


@dataclass(frozen=True)
class Pair:
    """An image (H, W, C) and what it is to become (scale * H, scale * W, C), both uint8 or uint16; without the former, None."""

    name: str
    source: Pixels | None
    target: Pixels


def read_pairs(
    targets: str | os.PathLike[str],
    sources: str | os.PathLike[str] | None = None,
    *,
    scale: int,
    channels: int,
    degrade: Callable[[Pixels], Pixels] | None = None,
) -> list[Pair]:
    """Read a folder of target images into memory, with their sources.

    Args:
        targets: a folder, looked through with all folders in it.
        sources: a folder with as many images, in the same order of names; names may differ, as Set5's do (``baby``, ``babyx2``).
        scale: target pixels for each source pixel. Without ``sources``, targets lose the rows and columns that are over.
        channels: 1 takes the luma of colour images, 3 repeats grey ones; other numbers must be those of the files.
        degrade: makes a source of a target where there is no folder of them.

    Raises:
        FileNotFoundError: if a folder is missing.
        ValueError: if it has no images, or two images do not belong together.
    """
    target_files = _files(targets)
    if sources is None:
        pairs = []
        for file in target_files:
            target = _pixels(open_image(file), channels, file)
            height, width = (size - size % scale for size in target.shape[:2])
            target = np.ascontiguousarray(target[:height, :width])
            pairs.append(Pair(file.name, degrade(target) if degrade else None, target))
        return pairs
    source_files = _files(sources)
    if len(source_files) != len(target_files):
        raise ValueError(f"{sources} has {len(source_files)} images, but {targets} has {len(target_files)}")
    return [_pair(s, t, scale, channels) for s, t in zip(source_files, target_files, strict=True)]


def _pair(source_file: Path, target_file: Path, scale: int, channels: int) -> Pair:
    source, target = (_pixels(open_image(file), channels, file) for file in (source_file, target_file))
    expected = tuple(scale * size for size in source.shape[:2])
    if any(not 0 <= size - wanted < scale for size, wanted in zip(target.shape[:2], expected, strict=True)):
        have, want = (" x ".join(map(str, size)) for size in (target.shape[:2], expected))
        raise ValueError(f"{target_file} has {have} pixels, but {scale} times {source_file} is {want}")
    if source.dtype != target.dtype:
        raise ValueError(f"{target_file} is {target.dtype}, but {source_file} is {source.dtype}")
    return Pair(target_file.name, source, np.ascontiguousarray(target[: expected[0], : expected[1]]))


def _files(folder: str | os.PathLike[str]) -> list[Path]:
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    files = find_images([str(folder)])
    if not files:
        raise ValueError(f"no images in {folder}")
    return files


def _pixels(image: Image, channels: int, file: Path) -> Pixels:
    pixels = image.pixels
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{file} holds {pixels.dtype}: expected 8 or 16 bits")
    if channels == 3 and pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if channels == 1 and pixels.shape[2] == 3:
        return (pixels @ np.array(_LUMA)).round().astype(pixels.dtype)[..., None]
    if pixels.shape[2] != channels:
        raise ValueError(f"{file} has {pixels.shape[2]} channels, the network takes {channels}")
    return pixels
