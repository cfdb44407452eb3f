"""Overlapping tiles of an axis that start in one phase, and how one fades into the next."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """A part of an axis: pixels ``start`` to ``stop`` are looked at, ``first`` to ``last`` are used, the rest is surroundings.

    ``fade_in`` and ``fade_out`` are the numbers of used pixels at the ends that are shared with the neighbours.
    """

    start: int
    stop: int
    first: int
    last: int
    fade_in: int
    fade_out: int

    def weights(self, up: int = 1, down: int = 1) -> Tensor:
        """Return the weights (ceil((last - first) * up / down),) of the used pixels; those of all tiles sum to 1 at each pixel.

        Half a period of a cosine leads from 0 to 1 over what is shared.
        """
        weights = torch.ones(-(-(self.last - self.first) * up // down))
        rising, falling = (0.5 - 0.5 * torch.cos(_phases(n * up // down)) for n in (self.fade_in, self.fade_out))
        weights[: len(rising)] = rising
        weights[len(weights) - len(falling) :] = 1 - falling
        return weights


def _phases(count: int) -> Tensor:
    return math.pi * (torch.arange(count) + 0.5) / max(count, 1)


def cut(size: int, tile: int, *, overlap: int = 0, fade: int = 0, multiple: int = 1) -> list[Tile]:
    """Cut an axis into tiles that start at multiples of ``multiple`` and overlap; no more of them than needed, nearly equal.

    Args:
        size: pixels of the axis.
        tile: pixels that a tile may look at, a multiple.
        overlap: pixels that two neighbours both look at, a multiple. They are divided at their middle.
        fade: pixels around that middle over which one tile fades into the next, up to ``overlap``.
        multiple: of all starts.

    Raises:
        ValueError: if a tile adds less than ``fade`` pixels or nothing to what its neighbour looked at.
    """
    if overlap % multiple or tile % multiple or fade > overlap:
        raise ValueError(
            f"tile is {tile}, overlap {overlap}, fade {fade}: expected multiples of {multiple}, and fade up to overlap"
        )
    if size <= tile:
        return [Tile(0, size, 0, size, 0, 0)]
    step = tile - overlap
    if step < max(multiple, fade):
        raise ValueError(f"tile is {tile}, expected {overlap + smallest_step(fade, multiple)} or more at an overlap of {overlap}")
    count = math.ceil((size - overlap) / step)
    # Equal tiles need no more memory than they must. Those that fade in and out still need room for both.
    step = max(-(-math.ceil((size - overlap) / count) // multiple) * multiple, smallest_step(fade, multiple))
    starts = [start for start in range(0, size, step) if start == 0 or start + overlap < size]
    tiles = []
    before = (overlap - fade) // 2
    for index, start in enumerate(starts):
        head, tail = index == 0, index == len(starts) - 1
        tiles.append(
            Tile(
                start,
                size if tail else start + step + overlap,
                0 if head else start + before,
                size if tail else start + step + before + fade,
                0 if head else fade,
                0 if tail else fade,
            )
        )
    return tiles


def smallest_step(fade: int, multiple: int) -> int:
    """What a tile must be larger than the overlap, at the least."""
    return max(-(-fade // multiple), 1) * multiple
