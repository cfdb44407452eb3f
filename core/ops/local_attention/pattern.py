"""Who attends to whom: a rule for each spatial axis, and the pattern of an image is the product of its axes' rules.

A rule cuts its axis into tiles. A tile has positions that ask (queries), positions that are asked (keys), and for each pair of
them the row of the axis' bias table. Every position asks in exactly one tile. Nothing here is as large as the image: a million
pixels are described by the tiles of their two axes.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

UNSEEN = -1  # row of a pair that does not attend
OUTSIDE = -1  # position of a key that lies outside the image


class Tile(NamedTuple):
    """Queries and keys of one tile of an axis. Rows: of the axis' bias table for (query, key), or ``UNSEEN``."""

    queries: tuple[int, ...]
    keys: tuple[int, ...]
    rows: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Window:
    """Windows of ``size`` positions side by side.

    Position x lies in window floor((x - shift) / size): Swin's windows (Liu et al. 2021, section 3.2), shifted without a roll.
    Those at the border hold fewer positions. With ``dilation`` d, d windows interlace in each run of d size positions. With
    ``overlap`` o, a window's keys reach o positions beyond it on both sides (OCAB of HAT, Chen et al. 2023, section 3.2).

    The image's end may be thought of as followed by keys up to a multiple of the window (those that zero padding before the
    projection makes), and the reach of ``overlap`` may leave it on both sides: these are the keys outside.

    Row of the bias table: query - key + size + overlap - 1, in units of ``dilation``; 2 (size + overlap) - 1 rows.
    """

    size: int
    shift: int = 0
    dilation: int = 1
    overlap: int = 0

    def __post_init__(self) -> None:
        if self.size < 1 or self.dilation < 1 or self.overlap < 0 or not 0 <= self.shift < self.size * self.dilation:
            raise ValueError(f"{self}: expected size >= 1, dilation >= 1, overlap >= 0 and 0 <= shift < size * dilation")
        if self.overlap and (self.shift or self.dilation > 1):
            raise ValueError(f"{self}: overlap allows no shift and no dilation")

    @property
    def fields(self) -> tuple[int, ...]:
        """What the constructor was given."""
        return self.size, self.shift, self.dilation, self.overlap

    @property
    def rows(self) -> int:
        """Rows of the axis' bias table."""
        return 2 * (self.size + self.overlap) - 1

    def check(self, size: int) -> None:
        """Raise ValueError if an axis of ``size`` positions cannot have this rule."""

    def tiles(self, size: int, *, outside: bool) -> Iterator[Tile]:
        run = self.size * self.dilation
        # Outside is what lies up to `overlap` before the image, and up to `overlap` behind its next multiple of the window. Of a
        # shifted window nothing lies beyond that: a roll brings the image's other end there, and Swin's mask hides it.
        low, high = -self.overlap, size + -size % run + self.overlap
        for start in range(self.shift - run if self.shift else 0, size, run):
            for residue in range(self.dilation):
                queries, keys = [], []
                for i in range(-self.overlap, self.size + self.overlap):
                    x = start + residue + i * self.dilation
                    if 0 <= i < self.size and 0 <= x < size:
                        queries.append((i, x))
                    if 0 <= x < size:
                        keys.append((i, x))
                    elif outside and low <= x < high:
                        keys.append((i, OUTSIDE))
                if queries:
                    rows = tuple(tuple(q - k + self.size + self.overlap - 1 for k, _ in keys) for q, _ in queries)
                    yield Tile(tuple(x for _, x in queries), tuple(x for _, x in keys), rows)


@dataclass(frozen=True)
class Grid:
    """Sets of ``size`` positions spread evenly over the axis: every ceil(length / size)-th one.

    Source: grid attention of MaxViT (Tu et al. 2022, section 3.2). Row of the bias table: query - key + size - 1, counted in the
    set; 2 size - 1 rows. On a length that is no multiple of ``size`` some sets are smaller (or reach outside).
    """

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"{self}: expected size >= 1")

    @property
    def fields(self) -> tuple[int, ...]:
        """What the constructor was given."""
        return (self.size,)

    @property
    def rows(self) -> int:
        """Rows of the axis' bias table."""
        return 2 * self.size - 1

    def check(self, size: int) -> None:
        """Raise ValueError if an axis of ``size`` positions cannot have this rule."""

    def tiles(self, size: int, *, outside: bool) -> Iterator[Tile]:
        stride = -(-size // self.size)
        for first in range(min(stride, size)):
            queries = tuple(range(first, size, stride))
            missing = self.size - len(queries) if outside else 0
            keys = queries + (OUTSIDE,) * missing
            rows = tuple(tuple(q - k + self.size - 1 for k in range(len(keys))) for q in range(len(queries)))
            yield Tile(queries, keys, rows)


@dataclass(frozen=True)
class Neighborhood:
    """The ``kernel`` positions nearest to each query, every ``dilation``-th one.

    Source: Hassani et al. 2023 (NAT), equations 1 to 3; Hassani and Shi 2022 (DiNAT). Near the border the neighbourhood is
    shifted inward, so that every query has ``kernel`` keys. A causal axis looks back only, at the query and the kernel - 1
    positions before it, fewer at the start. Row of the bias table: (key - query) / dilation + kernel - 1; 2 kernel - 1 rows.

    Args:
        kernel: keys of a query; odd unless causal.
        dilation: distance of neighbouring keys. The axis must hold kernel * dilation positions.
        causal: whether keys after the query are left out.
        tile: queries computed together; changes the work, not the result.
    """

    kernel: int
    dilation: int = 1
    causal: bool = False
    tile: int = 8

    def __post_init__(self) -> None:
        if self.kernel < 1 or self.dilation < 1 or self.tile < 1:
            raise ValueError(f"{self}: expected kernel >= 1, dilation >= 1 and tile >= 1")
        if self.kernel % 2 == 0 and not self.causal:
            raise ValueError(f"{self}: expected an odd kernel")

    @property
    def fields(self) -> tuple[int, ...]:
        """What the constructor was given."""
        return self.kernel, self.dilation, self.causal, self.tile

    @property
    def rows(self) -> int:
        """Rows of the axis' bias table."""
        return 2 * self.kernel - 1

    def check(self, size: int) -> None:
        """Raise ValueError if an axis of ``size`` positions cannot have this rule."""
        if 0 < size < self.kernel * self.dilation and not self.causal:
            raise ValueError(f"{self}: the axis has {size} positions, expected at least {self.kernel * self.dilation}")

    def tiles(self, size: int, *, outside: bool) -> Iterator[Tile]:
        del outside  # a neighbourhood never leaves the image
        self.check(size)
        for residue in range(min(self.dilation, size)):
            length = len(range(residue, size, self.dilation))
            for start in range(0, length, self.tile):
                asking = range(start, min(start + self.tile, length))
                spans = [self._span(i, length) for i in asking]
                asked = range(spans[0][0], spans[-1][1])
                rows = tuple(
                    tuple(j - i + self.kernel - 1 if low <= j < high else UNSEEN for j in asked)
                    for i, (low, high) in zip(asking, spans, strict=True)
                )
                positions = [tuple(residue + i * self.dilation for i in r) for r in (asking, asked)]
                yield Tile(positions[0], positions[1], rows)

    def _span(self, i: int, length: int) -> tuple[int, int]:
        """First and last (exclusive) key of query i."""
        if self.causal:
            return max(i - self.kernel + 1, 0), i + 1
        low = min(max(i - self.kernel // 2, 0), length - self.kernel)
        return low, low + self.kernel


@dataclass(frozen=True)
class FlatWindows:
    """Windows of an image whose axes are taken as one, row-major, with biases counted as Swin UNETR counts them.

    A side of a window that is longer than the image's is cut to it, and not shifted. All else is as in ``Window``: sizes that are
    no multiple of what remains reach outside, and no bias differs unless a side was cut. Then MONAI's ``WindowAttention`` takes
    the first n x n entries of an index that was made for whole windows: the i-th token of a cut window has the bias of the i-th
    place of a whole one, wherever that lies. Published weights were trained that way.

    Row of the bias table: row-major over the axes of place(query) - place(key) + window - 1; prod(2 window - 1) rows.

    Args:
        size: of the image.
        window: of the table, on each axis.
        shift: of the windows on each axis.
    """

    size: tuple[int, ...]
    window: tuple[int, ...]
    shift: tuple[int, ...]

    def __post_init__(self) -> None:
        same = len(self.size) == len(self.window) == len(self.shift)
        if not same or any(n < 1 or not 0 <= s < w for n, w, s in zip(self.size, self.window, self.shift, strict=True)):
            raise ValueError(f"{self}: expected size >= 1 and 0 <= shift < window on each axis")

    @property
    def fields(self) -> tuple[tuple[int, ...], ...]:
        """What the constructor was given."""
        return self.size, self.window, self.shift

    @property
    def rows(self) -> int:
        """Rows of the bias table."""
        return math.prod([2 * w - 1 for w in self.window])

    @property
    def cut(self) -> tuple[int, ...]:
        """The window's sides, cut to the image."""
        return tuple([min(n, w) for n, w in zip(self.size, self.window, strict=True)])

    def check(self, size: int) -> None:
        """Raise ValueError if an axis of ``size`` positions cannot have this rule."""
        if size not in (0, math.prod(self.size)):
            raise ValueError(f"{self}: the axis has {size} positions, expected {math.prod(self.size)}")

    def tiles(self, size: int, *, outside: bool) -> Iterator[Tile]:
        self.check(size)
        place = self._places()
        along = [list(self._along(axis, outside=outside)) for axis in range(len(self.size))]
        for parts in itertools.product(*along):
            points = [self._point(point) for point in itertools.product(*parts)]
            queries = [(i, x) for i, x in points if x != OUTSIDE]
            rows = tuple(tuple(place[q] - place[k] + self.rows // 2 for k, _ in points) for q, _ in queries)
            yield Tile(tuple(x for _, x in queries), tuple(x for _, x in points), rows)

    def _along(self, axis: int, *, outside: bool) -> Iterator[list[tuple[int, int]]]:
        """The windows of one axis that hold a position of the image: place in the window, and position or ``OUTSIDE``."""
        n, side = self.size[axis], self.cut[axis]
        shift = self.shift[axis] if n > self.window[axis] else 0
        end = n + -n % side if outside else n
        for start in range(shift - side if shift else 0, n, side):
            yield [(i, x if x < n else OUTSIDE) for i, x in enumerate(range(start, start + side)) if 0 <= x < end]

    def _places(self) -> list[int]:
        """Of each token of a cut window: its place in a whole one, as a number whose differences are those of rows."""
        strides = [math.prod(2 * w - 1 for w in self.window[axis + 1 :]) for axis in range(len(self.window))]
        whole = itertools.islice(itertools.product(*map(range, self.window)), math.prod(self.cut))
        return [sum(i * stride for i, stride in zip(place, strides, strict=True)) for place in whole]

    def _point(self, along: tuple[tuple[int, int], ...]) -> tuple[int, int]:
        """From place and position on each axis to those on all axes taken as one."""
        place = position = 0
        for (i, x), side, n in zip(along, self.cut, self.size, strict=True):
            place, position = place * side + i, position * n + x
        return place, OUTSIDE if any(x == OUTSIDE for _, x in along) else position


Axis = Window | Grid | Neighborhood | FlatWindows
Pattern = tuple[Axis, ...]


def windows(size: tuple[int, ...], *, shift: tuple[int, ...] | None = None, dilation: int = 1, overlap: int = 0) -> Pattern:
    """Windows on every axis: square, striped or axial, as ``size`` says; one as large as its axis spans it."""
    shift = (0,) * len(size) if shift is None else tuple(shift)
    if len(shift) != len(size):
        raise ValueError(f"windows: size {tuple(size)} and shift {shift}, expected one of each for an axis")
    return tuple(Window(n, s, dilation, overlap) for n, s in zip(size, shift, strict=True))


def grid(size: tuple[int, ...]) -> Pattern:
    """``Grid`` on every axis."""
    return tuple(Grid(n) for n in size)


def neighborhood(
    kernel: tuple[int, ...], *, dilation: tuple[int, ...] | None = None, causal: tuple[bool, ...] | None = None
) -> Pattern:
    """``Neighborhood`` on every axis."""
    dilation = (1,) * len(kernel) if dilation is None else tuple(dilation)
    causal = (False,) * len(kernel) if causal is None else tuple(causal)
    if not len(kernel) == len(dilation) == len(causal):
        raise ValueError(
            f"neighborhood: kernel {tuple(kernel)}, dilation {dilation} and causal {causal}, expected one of each for an axis"
        )
    # 32 queries together: fewer make too many small products, more look at too many keys that are not theirs.
    tile = {1: (32,), 2: (4, 8), 3: (2, 4, 4)}.get(len(kernel), (4,) * len(kernel))
    return tuple(Neighborhood(*rule) for rule in zip(kernel, dilation, causal, tile, strict=True))


@dataclass(frozen=True, eq=False)  # compared by identity: what is made of a block can be kept in a cache at no cost
class Block:
    """Tiles that differ in nothing but their place: on each axis, those of one class.

    Shapes of each axis: T tiles, n queries, m keys. A block holds prod(T) tiles of N = prod(n) queries and M = prod(m) keys.
    """

    queries: tuple[tuple[tuple[int, ...], ...], ...]  # axis, T, n: positions
    keys: tuple[tuple[tuple[int, ...], ...], ...]  # axis, T, m: positions of the keys in the image
    rows: tuple[tuple[tuple[int, ...], ...], ...]  # axis, n, m + e: bias rows of the m keys in the image, then of e outside
    masked: bool  # whether a row is UNSEEN


def plan(size: tuple[int, ...], pattern: Pattern, *, outside: bool) -> list[Block]:
    """Cut an image of this size into blocks. Every position is a query of exactly one tile of one block."""
    blocks = [Block((), (), (), masked=False)]
    for length, axis in zip(size, pattern, strict=True):
        classes: dict[tuple[object, ...], list[Tile]] = {}
        for tile in axis.tiles(length, outside=outside):
            tile = _outside_last(tile)
            classes.setdefault((tile.rows, tile.keys.count(OUTSIDE)), []).append(tile)
        blocks = [
            Block(
                (*block.queries, tuple(tile.queries for tile in tiles)),
                (*block.keys, tuple(tuple(k for k in tile.keys if k != OUTSIDE) for tile in tiles)),
                (*block.rows, tiles[0].rows),
                block.masked or any(UNSEEN in row for row in tiles[0].rows),
            )
            for block in blocks
            for tiles in classes.values()
        ]
    return blocks


def _outside_last(tile: Tile) -> Tile:
    """Sort the keys of a tile so that those outside the image come last."""
    order = sorted(range(len(tile.keys)), key=lambda j: tile.keys[j] == OUTSIDE)
    return Tile(tile.queries, tuple(tile.keys[j] for j in order), tuple(tuple(row[j] for j in order) for row in tile.rows))
