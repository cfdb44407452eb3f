"""Where the tiles lie, as the integers that a GPU kernel reads: small tables, nothing as large as the image.

A kernel's program finds its block by its number, then its tile, then the places of its queries and keys. A place is the sum of
one entry for each axis of a list of positions; every image is treated as one of three axes.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .pattern import Block
from .prepare import remembered

# Columns of the table of blocks. First programs: of this block among those that go over queries, keys, and pairs of both.
FIRST_QUERY, FIRST_KEY, FIRST_PAIR = 0, 1, 2
TILES = 3  # and on the second and third axis
QUERIES, KEYS = 6, 9  # of a tile in the image: all, and on the second and third axis
CONSTANT = 12  # keys outside the image
BIAS = 13  # start of this block's bias, -1 if it has none
QUERY_LISTS, KEY_LISTS = 14, 17  # start of the list of positions of each axis
COLUMNS = 20


class Launch(NamedTuple):
    """Consecutive rows of a table that one launch of a kernel works on, and its programs for each head of each image."""

    first: int
    count: int
    queries: int
    keys: int
    pairs: int


class Tables(NamedTuple):
    """All blocks, and once more cut into colours: tiles of one colour have no key in common."""

    blocks: Tensor  # (blocks, COLUMNS), int64
    coloured: Tensor  # (blocks or more, COLUMNS), int64, sorted by colour
    positions: Tensor  # int32
    whole: Launch
    colours: list[Launch]
    tile: tuple[int, int]  # queries and keys of a program
    groups: int  # parts into which the sum over tiles is cut for the gradient of the bias


@remembered(64)
def tables(
    blocks: tuple[Block, ...],
    biased: tuple[bool, ...],
    constants: tuple[bool, bool],
    size: tuple[int, ...],
    shape: tuple[int, int],
    limit: int,
    device: torch.device,
) -> Tables:
    """Describe blocks to the kernels.

    Args:
        blocks: of ``plan``.
        biased: whether each block has a bias.
        constants: whether there are constant keys for what lies outside the image, and whether one stands for all of a tile.
        size: of the image.
        shape: of the batch: images, heads.
        limit: the most queries or keys that one program takes at a time.
        device: of the tables.
    """
    images, heads = shape
    sizes = [_counts(block) for block in blocks]
    outside = [math.prod([len(rows[0]) for rows in block.rows]) - m for block, (_, _, m) in zip(blocks, sizes, strict=True)]
    there, folded = constants
    extra = [min(e, 1) if folded else e for e in outside] if there else [0] * len(blocks)
    tile = _side([n for _, n, _ in sizes], limit), _side([m + e for (_, _, m), e in zip(sizes, extra, strict=True)], limit)

    starts, end = [], 0
    for (_, n, m), constant, has_bias in zip(sizes, extra, biased, strict=True):
        starts.append(end if has_bias else -1)
        end += heads * n * (m + constant) if has_bias else 0
    positions: list[int] = []
    whole = list(zip(blocks, starts, extra, strict=True))
    rows, launch = _rows(whole, size, tile, positions, 0)
    coloured, launches = [], []
    for colour in _colours(whole):
        more, part = _rows(colour, size, tile, positions, len(coloured))
        coloured += more
        launches.append(part)

    # Enough programs to fill a large GPU, few enough that the partial sums stay small.
    groups = min(-(-512 // (heads * launch.pairs)), images * max(tiles for tiles, _, _ in sizes))
    with torch.inference_mode(False):  # what is kept in a cache must serve training too
        return Tables(
            torch.tensor(rows, device=device),
            torch.tensor(coloured, device=device),
            torch.tensor(positions, dtype=torch.int32, device=device),
            launch,
            launches,
            tile,
            groups,
        )


def _counts(block: Block) -> tuple[int, int, int]:
    """Tiles, and queries and keys in the image of each."""
    return (
        math.prod([len(axis) for axis in block.queries]),
        math.prod([len(axis[0]) for axis in block.queries]),
        math.prod([len(axis[0]) for axis in block.keys]),
    )


def _side(counts: list[int], limit: int) -> int:
    """The least power of two from 16 to the limit that holds all counts, or else the limit."""
    return min(max(16, 1 << (max(counts) - 1).bit_length()), limit)


def _rows(
    blocks: Sequence[tuple[Block, int, int]], size: tuple[int, ...], tile: tuple[int, int], positions: list[int], first: int
) -> tuple[list[list[int]], Launch]:
    """Rows of the table for blocks with the start of their bias and their constant keys. Appends to the positions."""
    strides = [math.prod(size[axis + 1 :]) for axis in range(len(size))]
    rows = []
    queries = keys = pairs = 0
    for block, bias, constant in blocks:
        tiles, n, m = _counts(block)
        row = [queries, keys, pairs, tiles, *_inner(block.queries, 0), n, *_inner(block.queries, 1), m, *_inner(block.keys, 1)]
        row += [constant, bias]
        for axes in (block.queries, block.keys):
            for axis in range(3):
                row.append(len(positions))
                missing = 3 - len(axes)
                if axis < missing:
                    positions.append(0)
                else:
                    positions += [strides[axis - missing] * x for points in axes[axis - missing] for x in points]
        rows.append(row)
        queries += tiles * -(-n // tile[0])
        keys += tiles * -(-m // tile[1])
        pairs += -(-n // tile[0]) * -(-(m + constant) // tile[1])
    return rows, Launch(first, len(rows), queries, keys, pairs)


def _inner(axes: tuple[tuple[tuple[int, ...], ...], ...], what: int) -> list[int]:
    """Tiles (0) or points of a tile (1) on the last two of three axes."""
    counts = [len(axis) if what == 0 else len(axis[0]) for axis in axes]
    return ([1, 1, 1] + counts)[-2:]


def _colours(blocks: Sequence[tuple[Block, int, int]]) -> list[list[tuple[Block, int, int]]]:
    """Sort the tiles into the fewest colours that a greedy choice finds, axis by axis; tiles of one colour share no key."""
    axes = range(len(blocks[0][0].keys))
    chosen = [_colours_of_axis([tile for block, _, _ in blocks for tile in _tiles(block, axis)]) for axis in axes]
    found = []
    for wanted in itertools.product(*(sorted(set(colours.values())) for colours in chosen)):
        colour = []
        for block, bias, constant in blocks:
            kept = [[t for t in _tiles(block, axis) if chosen[axis][t] == wanted[axis]] for axis in axes]
            if all(kept):
                queries, keys = (tuple(tuple(tile[part] for tile in tiles) for tiles in kept) for part in (0, 1))
                colour.append((Block(queries, keys, block.rows, block.masked), bias, constant))
        if colour:
            found.append(colour)
    return found


def _tiles(block: Block, axis: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    return list(zip(block.queries[axis], block.keys[axis], strict=True))


def _colours_of_axis(tiles: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> dict[tuple[tuple[int, ...], tuple[int, ...]], int]:
    taken: list[set[int]] = []
    colours = {}
    for tile in sorted(set(tiles), key=lambda tile: tile[1]):
        colour = next((i for i, keys in enumerate(taken) if keys.isdisjoint(tile[1])), len(taken))
        if colour == len(taken):
            taken.append(set())
        taken[colour].update(tile[1])
        colours[tile] = colour
    return colours
