"""Polygons of a class map, strip by strip: each is handed out as soon as the scan has passed it.

A region is what is connected by edges of pixels of one value. Its boundary is followed clockwise along pixel edges, the region
to the right; where it meets itself at a corner the way turns right, so that what follows an edge is known from the four pixels
around its end. A ring that passes a point twice is split there at the end.

Held in memory are a strip, the chains of edges that cross the scan line (as places in a file), 16 bytes for each hole of a region
that goes on, and the polygon that is being handed out. Their points are in the file.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .rings import Indices, Points, rearranged, sequences, split_touching, twice_areas
from .spill import Segments, Spill

_EAST, _SOUTH, _WEST, _NORTH = range(4)  # which way an edge leads; it is then the upper, right, lower, left side of its pixel


@dataclass(frozen=True, eq=False)
class Polygons:
    """Polygons in pixel coordinates, (0, 0) the outer corner of the first pixel.

    Args:
        points: corners of all rings, not closed, (points, 2): column and row.
        rings: where each ring begins in ``points``, and their number, (rings + 1,).
        polygons: where each polygon begins in ``rings``, its outer ring first, and their number, (polygons + 1,).
        values: classes, (polygons,).
        pixels: number of each, (polygons,).
        weights: sums over its pixels of what was given for their rows, (polygons,).
    """

    points: Points
    rings: NDArray[np.int64]
    polygons: NDArray[np.int64]
    values: NDArray[np.int32]
    pixels: NDArray[np.int64]
    weights: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Regions:
    """Regions of a strip: number of each pixel's; by number its value, pixels, weight, whether it goes on, and its holes."""

    of_pixel: Indices
    values: NDArray[np.int32]
    pixels: NDArray[np.int64]
    weights: NDArray[np.float64]
    goes_on: NDArray[np.bool_]
    holes: "dict[int, Segments[int]]"


@dataclass(frozen=True, eq=False)
class _Rings:
    points: Points
    offsets: NDArray[np.int64]
    regions: NDArray[np.int64]

    def __add__(self, other: "_Rings") -> "_Rings":
        return _Rings(
            np.concatenate([self.points, other.points]),
            np.append(self.offsets, other.offsets[1:] + self.offsets[-1]),
            np.append(self.regions, other.regions),
        )


class Scan:
    """Takes the rows of a map from top to bottom.

    Args:
        width: of the map in pixels.
        spill: for points.
    """

    def __init__(self, width: int, spill: Spill) -> None:
        self._width = width
        self._spill = spill
        self._row = 0  # of the map, first of the strip to come
        self._above = np.zeros(width + 2, np.int32)  # values of the last row; a pixel of nothing on both sides
        self._region_above = np.full(width + 2, -1, np.int32)  # numbers of the regions that go on
        self._pixels: NDArray[np.int64] = np.zeros(0, np.int64)  # of these
        self._weights: NDArray[np.float64] = np.zeros(0)
        self._holes: dict[int, Segments[int]] = {}
        # Chains of edges that wait for the next strip: columns where they begin (a left side) and end (a right side), and points.
        self._starts: Indices = np.zeros(0, np.int32)
        self._ends: Indices = np.zeros(0, np.int32)
        self._segments: list[Segments[int]] = []

    def strip(self, values: NDArray[np.int32], weights: NDArray[np.float64]) -> Polygons:
        """Take further rows, and return the polygons that end in or above them.

        Args:
            values: classes (rows, width), 0 where there is none.
            weights: of a pixel in each row, (rows,).
        """
        padded = np.pad(values, ((0, 0), (1, 1)))
        strip = np.vstack([self._above[None], padded]).astype(np.int32, copy=False)
        regions = self._label(strip, weights)
        rings = self._follow(strip, regions)
        polygons = self._close(rings, regions)
        self._go_on(strip, regions)
        self._row += len(values)
        return polygons

    def end(self) -> Polygons:
        """Return the polygons that reach the lower edge of the map."""
        return self.strip(np.zeros((1, self._width), np.int32), np.zeros(1))

    def _label(self, strip: NDArray[np.int32], weights: NDArray[np.float64]) -> _Regions:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        flat = strip.ravel()
        begins = np.flatnonzero(np.append(True, flat[1:] != flat[:-1]))  # runs; those of nothing may go over the end of a row
        steps = np.zeros(flat.size, np.int32)
        steps[begins[1:]] = 1
        run: Indices = np.cumsum(steps, dtype=np.int32).reshape(strip.shape)
        joined = (strip[1:] == strip[:-1]) & (strip[1:] != 0)
        fresh = joined.copy()  # the first column where two runs meet says enough
        fresh[:, 1:] &= ~(joined[:, :-1] & (run[1:, 1:] == run[1:, :-1]) & (run[:-1, 1:] == run[:-1, :-1]))
        carried = np.flatnonzero(self._region_above >= 0)
        runs, known = len(begins), len(self._pixels)
        one = np.concatenate([run[:-1][fresh], run[0, carried]])
        other = np.concatenate([run[1:][fresh], runs + self._region_above[carried]])
        graph = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(runs + known, runs + known))
        count, region = connected_components(graph, directed=False)
        lengths = np.diff(np.append(begins, flat.size))
        row = begins // strip.shape[1]
        below = row > 0
        values, old = flat[begins], region[runs:]
        pixels = np.bincount(region[:runs][below], lengths[below], count) + np.bincount(old, self._pixels, count)
        area = np.append(0, weights)[row] * lengths
        summed = np.bincount(region[:runs][below], area[below], count) + np.bincount(old, self._weights, count)
        of_region = np.zeros(count, np.int32)
        of_region[region[:runs]] = values
        of_pixel = region[:runs][run]
        goes_on = np.zeros(count, np.bool_)
        goes_on[of_pixel[-1]] = True
        goes_on &= of_region != 0
        holes: dict[int, Segments[int]] = {}
        for number, segments in self._holes.items():
            here = int(old[number])
            less, more = sorted((holes.get(here, array("q")), segments), key=len)
            more.extend(less)
            holes[here] = more
        return _Regions(of_pixel, of_region, pixels.astype(np.int64), summed.astype(np.float64), goes_on, holes)

    def _follow(self, strip: NDArray[np.int32], regions: _Regions) -> _Rings:
        """Follow all edges of the strip, keep the chains that leave it, and return the rings that are closed."""
        across = strip.shape[1]
        sides = _sides(strip)
        places = [np.flatnonzero(side).astype(np.int32) for side in sides]
        counts = np.cumsum([0, *(len(place) for place in places), len(self._starts)])
        at = [np.full(strip.size, -1, np.int32) for _ in sides]
        for way, place in enumerate(places):
            at[way][place] = np.arange(counts[way], counts[way + 1], dtype=np.int32)
        at[_NORTH][self._starts + 1] = np.arange(counts[4], counts[5], dtype=np.int32)
        # Right around the pixel itself, else straight on, else left. A right side in the last row waits for the next strip.
        inner = int(np.searchsorted(places[_SOUTH], strip.size - across))
        ends = np.concatenate([places[_SOUTH][:inner], self._ends + 1])
        steps = (
            (places[_EAST], _SOUTH, 1, _NORTH, 1 - across),
            (ends, _WEST, across, _EAST, across + 1),
            (places[_WEST], _NORTH, -1, _SOUTH, across - 1),
            (places[_NORTH], _EAST, -across, _WEST, -across - 1),
        )
        turns = [_turn(at, way, *step) for way, step in enumerate(steps)]
        loose = np.full(len(places[_SOUTH]) - inner, -1, np.int32)
        following = np.concatenate([turns[0], turns[1][:inner], loose, turns[2], turns[3], turns[1][inner:]])
        found = sequences(following)

        pixels = np.concatenate([*places, self._ends + 1])
        way_in = np.repeat([*range(4), _NORTH], np.diff(counts)).astype(np.int8)
        way_out = np.where(np.arange(len(way_in)) < counts[4], way_in, _SOUTH)
        corners = self._corners(np.concatenate([*places, self._starts + 1]), way_in, across)
        order, offsets = found.order, found.offsets
        previous = np.roll(order, 1)
        heads = offsets[:-1]
        previous[heads] = order[offsets[1:] - 1]
        is_corner = way_in[order] != way_out[previous]
        is_corner[heads[~found.closed]] = False  # the edge before is not known yet
        chained = np.zeros(len(heads), np.bool_)
        part = np.repeat(np.arange(len(heads)), np.diff(offsets))
        chained[part[order >= counts[4]]] = True
        whole = found.closed & ~chained
        direct = is_corner & whole[part]
        lengths = np.bincount(part[direct], minlength=len(heads))[whole]
        region_of = regions.of_pixel.ravel()[pixels[order[heads]]] if len(heads) else np.zeros(0, np.int64)
        rings = _Rings(corners[order[direct]], np.append(0, np.cumsum(lengths)), region_of[whole].astype(np.int64))
        others = self._chains(found.closed, ~whole, order, offsets, is_corner, part, corners, int(counts[4]), pixels, across)
        closed = [(points, int(region_of[which])) for which, points in others]
        return rings + _joined(closed)

    def _corners(self, pixels: Indices, ways: NDArray[np.int8], across: int) -> Points:
        """Where edges begin, in pixels of the map."""
        row, column = np.divmod(pixels, across)
        column = column - 1 + np.isin(ways, (_SOUTH, _WEST))
        row = row - 1 + self._row + np.isin(ways, (_WEST, _NORTH))
        return np.column_stack([column, row]).astype(np.int32)

    def _chains(
        self, closed: NDArray[np.bool_], kept: NDArray[np.bool_], order: Indices, offsets: NDArray[np.int64],
        is_corner: NDArray[np.bool_], part: NDArray[np.int64], corners: Points, first_chain: int, pixels: Indices, across: int,
    ) -> Iterator[tuple[int, Points]]:  # fmt: skip
        """Put chains together with what follows them; yield those that became rings, by their number."""
        spilled = is_corner & kept[part]
        base = self._spill.append(corners[order[spilled]])
        places = np.append(0, np.cumsum(spilled))
        joints = np.flatnonzero(order >= first_chain)
        cut = np.searchsorted(joints, offsets)
        starts, ends, chains, rings = [], [], [], []
        for which in np.flatnonzero(kept).tolist():
            segments: Segments[int] = array("q")
            begin = int(offsets[which])
            for joint in joints[cut[which] : cut[which + 1]].tolist():
                _extend(segments, base, int(places[begin]), int(places[joint + 1]))
                segments.extend(self._segments[int(order[joint]) - first_chain])
                begin = joint + 1
            _extend(segments, base, int(places[begin]), int(places[offsets[which + 1]]))
            if closed[which]:
                rings.append((which, segments))
            else:
                chains.append(segments)
                starts.append(int(pixels[order[offsets[which]]]) % across - 1)
                ends.append(int(pixels[order[offsets[which + 1] - 1]]) % across - 1)
        self._starts, self._ends, self._segments = np.array(starts, np.int32), np.array(ends, np.int32), chains
        for which, segments in rings:
            yield which, self._spill.read(segments)

    def _close(self, rings: _Rings, regions: _Regions) -> Polygons:
        """Make polygons of the rings of regions that end; keep the holes of those that go on."""
        points, offsets, source = split_touching(rings.points, rings.offsets)
        owner = rings.regions[source] if len(source) else rings.regions
        ends = ~regions.goes_on[owner]
        self._keep_holes(_Rings(*rearranged(points, offsets, np.flatnonzero(~ends)), owner[~ends]), regions)
        done = _Rings(*rearranged(points, offsets, np.flatnonzero(ends)), owner[ends])
        inner = twice_areas(done.points, done.offsets) < 0
        for region in [number for number in regions.holes if not regions.goes_on[number]]:
            segments = regions.holes.pop(region)
            lengths = np.array(segments[1::2], np.int64)
            done += _Rings(self._spill.read(segments), np.append(0, np.cumsum(lengths)), np.full(len(lengths), region))
            inner = np.append(inner, np.ones(len(lengths), np.bool_))
        order = np.lexsort((inner, done.regions))
        points, offsets = rearranged(done.points, done.offsets, order)
        found, first = np.unique(done.regions[order], return_index=True)
        return Polygons(
            points,
            offsets,
            np.append(first, len(order)),
            regions.values[found],
            regions.pixels[found],
            regions.weights[found],
        )

    def _keep_holes(self, rings: _Rings, regions: _Regions) -> None:
        base = self._spill.append(rings.points)
        offsets = rings.offsets.tolist()
        for begin, end, region in zip(offsets[:-1], offsets[1:], rings.regions.tolist(), strict=True):
            _extend(regions.holes.setdefault(region, array("q")), base, begin, end)

    def _go_on(self, strip: NDArray[np.int32], regions: _Regions) -> None:
        number = np.full(len(regions.goes_on), -1, np.int32)
        going = np.flatnonzero(regions.goes_on)
        number[going] = np.arange(len(going), dtype=np.int32)
        self._above = strip[-1].copy()
        self._region_above = np.where(self._above != 0, number[regions.of_pixel[-1]], -1).astype(np.int32)
        self._pixels, self._weights = regions.pixels[going], regions.weights[going]
        self._holes = {int(number[region]): segments for region, segments in regions.holes.items()}


def _sides(strip: NDArray[np.int32]) -> tuple[NDArray[np.bool_], ...]:
    """Which pixels have an upper, right, lower, left side on a boundary, as far as the strip's own edges go."""
    some = strip != 0
    upper, right, lower, left = (np.zeros(strip.shape, np.bool_) for _ in range(4))
    vertical = strip[1:] != strip[:-1]
    upper[1:] = vertical & some[1:]
    lower[:-1] = vertical & some[:-1]  # those of the last row belong to the next strip
    horizontal = strip[1:, 1:] != strip[1:, :-1]  # those of the first row are in chains
    right[1:, :-1] = horizontal & some[1:, :-1]
    left[1:, 1:] = horizontal & some[1:, 1:]
    return upper, right, lower, left


def _turn(at: list[Indices], way: int, pixels: Indices, right: int, ahead: int, left: int, aside: int) -> Indices:
    around, straight = at[right][pixels], at[way][pixels + ahead]
    return np.where(around >= 0, around, np.where(straight >= 0, straight, at[left][pixels + aside]))


def _extend(segments: "Segments[int]", base: int, begin: int, end: int) -> None:
    if end > begin:
        segments.extend((base + begin, end - begin))


def _joined(rings: list[tuple[Points, int]]) -> _Rings:
    points = np.concatenate([points for points, _ in rings]) if rings else np.zeros((0, 2), np.int32)
    lengths = np.cumsum([len(points) for points, _ in rings], dtype=np.int64)
    return _Rings(points, np.append(0, lengths), np.array([region for _, region in rings], np.int64))
