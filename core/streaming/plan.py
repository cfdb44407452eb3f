"""Which parts an image is worked on in, and which pixels of the result each of them finishes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from ..tiles import Tile, cut


@dataclass(frozen=True)
class Area:
    """A rectangle of pixels."""

    row: int
    column: int
    height: int
    width: int


@dataclass(frozen=True)
class Part:
    """What is computed at once: the pixels to look at and to use, by row and by column, in the image's own coordinates."""

    index: int
    rows: Tile
    columns: Tile


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The parts of an image, in raster order. Tiles begin at multiples of ``multiple`` of the image whatever is asked for of it.

    Args:
        image: height and width in pixels.
        area: of the image, that is worked on; surroundings are looked at wherever the image goes on.
        side: pixels on a side of a part, surroundings included.
        overlap: pixels that two neighbours both look at.
        fade: of these, over how many one fades into the next; 0 where each pixel is made by one part alone.
        multiple: of all starts.
        fixed: parts are those of the whole image, whatever area of it is asked for: for models whose results depend on the part.
        up, down: a pixel of the image is ``up / down`` pixels of the result on an axis. Parts begin at multiples of ``down``.
    """

    image: tuple[int, int]
    area: Area
    side: int
    overlap: int = 0
    fade: int = 0
    multiple: int = 1
    fixed: bool = False
    up: int = 1
    down: int = 1

    def __post_init__(self) -> None:
        before = (self.overlap - self.fade) // 2
        if any(pixels % self.down for pixels in (self.area.row, self.area.column, self.fade, before, self.multiple)):
            raise ValueError(
                f"area {self.area}, overlap {self.overlap}, fade {self.fade}, multiple {self.multiple}: "
                f"expected multiples of {self.down}, and of {2 * self.down} the overlap beside the fade"
            )

    @cached_property
    def rows(self) -> list[Tile]:
        """Tiles from top to bottom."""
        return self._tiles(self.image[0], self.area.row, self.area.height)

    @cached_property
    def columns(self) -> list[Tile]:
        """Tiles from left to right."""
        return self._tiles(self.image[1], self.area.column, self.area.width)

    def _tiles(self, size: int, first: int, pixels: int) -> list[Tile]:
        around = self.overlap // 2
        start = max((first - around) // self.multiple * self.multiple, 0)
        # Whole windows, for those that end inside the image are filled up with what is not in it.
        stop = min(-(-(first + pixels + around) // self.multiple) * self.multiple, size)
        if self.fixed:
            start, stop = 0, size
        tiles = cut(stop - start, self.side, overlap=self.overlap, fade=self.fade, multiple=self.multiple)
        moved = (
            replace(t, start=t.start + start, stop=t.stop + start, first=t.first + start, last=t.last + start) for t in tiles
        )
        return [tile for tile in moved if tile.first < first + pixels and tile.last > first]

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def __iter__(self) -> Iterator[Part]:
        return (self.part(index) for index in range(len(self)))

    def part(self, index: int) -> Part:
        """Return the part of that number."""
        row, column = divmod(index, len(self.columns))
        return Part(index, self.rows[row], self.columns[column])

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the result; a pixel of it that the area's edge cuts counts."""
        return self._result(self.area.height), self._result(self.area.width)

    def _result(self, pixels: int) -> int:
        return -(-pixels * self.up // self.down)

    def used(self, part: Part) -> Area:
        """Return the pixels that a part makes, fading ends and what lies beside the area too, from the first part's corner."""
        row, column = (self._result(t.first - f) for t, f in self._from_corner(part))
        bottom, right = (self._result(t.last - f) for t, f in self._from_corner(part))
        return Area(row, column, bottom - row, right - column)

    def finishes(self, part: Part) -> Area:
        """Return, in the same coordinates, the pixels that no later part adds to."""
        whole = self.used(part)
        down, right = (self._result(tile.fade_out) for tile in (part.rows, part.columns))
        return Area(whole.row, whole.column, whole.height - down, whole.width - right)

    def _from_corner(self, part: Part) -> tuple[tuple[Tile, int], tuple[Tile, int]]:
        return (part.rows, self.rows[0].first), (part.columns, self.columns[0].first)

    def place(self, part: Part) -> tuple[Area, tuple[slice, slice]]:
        """Return which pixels of the result a part finishes, and which rows and columns of what it finishes these are."""
        whole = self.finishes(part)
        spans = []
        corner = self.area.row - self.rows[0].first, self.area.column - self.columns[0].first
        starts, sizes = (whole.row, whole.column), (whole.height, whole.width)
        for start, size, offset, total in zip(starts, sizes, map(self._result, corner), self.shape, strict=True):
            first = min(max(start, offset), offset + total)
            last = max(min(start + size, offset + total), first)  # what is computed for its fading end alone finishes nothing
            spans.append((first - offset, slice(first - start, last - start)))
        (row, rows), (column, columns) = spans
        return Area(row, column, rows.stop - rows.start, columns.stop - columns.start), (rows, columns)

    def again(self, done: int) -> list[Part]:
        """Return the parts to compute once more, after ``done`` of them were finished, for what they fade into the next ones."""
        if not self.fade or not 0 < done < len(self):
            return []
        row, column = divmod(done, len(self.columns))
        return [self.part(index) for index in range(max((row - 1) * len(self.columns) + max(column - 1, 0), 0), done)]
