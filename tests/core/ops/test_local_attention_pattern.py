"""The rules of single axes against their definitions, pair by pair."""

from collections import Counter

import pytest

from geovit.core.ops.local_attention import Grid, Neighborhood, Window, grid, neighborhood, windows
from geovit.core.ops.local_attention.pattern import OUTSIDE, UNSEEN, plan

SIZES = (1, 2, 5, 8, 12, 13)


def pairs(axis, size, *, outside=False):
    """Rows of all pairs that attend by (query, key), with the row of each key outside in a list."""
    inside, beyond = {}, {}
    for block in plan((size,), (axis,), outside=outside):
        for queries, keys in zip(block.queries[0], block.keys[0], strict=True):
            for x, rows in zip(queries, block.rows[0], strict=True):
                assert x not in beyond, "a position asks twice"
                beyond[x] = Counter(row for row in rows[len(keys) :] if row != UNSEEN)
                for y, row in zip(keys, rows, strict=False):
                    if row != UNSEEN:
                        assert (x, y) not in inside
                        inside[x, y] = row
        assert block.masked == any(UNSEEN in rows for rows in block.rows[0])
    assert sorted(beyond) == list(range(size)), "not every position asks"
    return inside, beyond


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("window", "dilation", "overlap"), [(4, 1, 0), (3, 1, 0), (1, 1, 0), (3, 2, 0), (2, 3, 0), (4, 1, 1), (3, 1, 5)]
)
def test_a_window_holds_what_lies_between_two_cuts(size, window, dilation, overlap):
    run = window * dilation
    for shift in range(1 if overlap else run):
        inside, beyond = pairs(Window(window, shift, dilation, overlap), size, outside=True)
        end = size + -size % run + overlap
        for x in range(size):
            first = (x - shift) // run * run + shift  # of the run of x
            seen = [y for y in range(-overlap, end) if first - overlap <= y < first + run + overlap and (x - y) % dilation == 0]
            row = {y: (x - y) // dilation + window + overlap - 1 for y in seen}
            assert {y: r for (q, y), r in inside.items() if q == x} == {y: r for y, r in row.items() if 0 <= y < size}
            assert beyond[x] == Counter(r for y, r in row.items() if not 0 <= y < size)
            assert all(0 <= r < 2 * (window + overlap) - 1 for r in row.values())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("points", [1, 2, 3, 7, 15])
def test_a_grid_spreads_its_points_over_the_whole_axis(size, points):
    inside, beyond = pairs(Grid(points), size, outside=True)
    stride = -(-size // points)
    for x in range(size):
        row = {y: x // stride - y // stride + points - 1 for y in range(points * stride) if (x - y) % stride == 0}
        assert {y: r for (q, y), r in inside.items() if q == x} == {y: r for y, r in row.items() if y < size}
        assert beyond[x] == Counter(r for y, r in row.items() if y >= size)


@pytest.mark.parametrize("size", [1, 3, 8, 13, 30])
@pytest.mark.parametrize(("kernel", "dilation", "tile"), [(1, 1, 8), (3, 1, 1), (5, 1, 3), (3, 2, 8), (3, 4, 2), (7, 2, 4)])
def test_a_neighbourhood_holds_the_nearest_positions(size, kernel, dilation, tile):
    axis = Neighborhood(kernel, dilation, tile=tile)
    if size < kernel * dilation:
        with pytest.raises(ValueError, match=f"has {size} positions, expected at least {kernel * dilation}"):
            plan((size,), (axis,), outside=False)
        return
    inside, _ = pairs(axis, size)
    for x in range(size):
        reachable = [y for y in range(size) if (x - y) % dilation == 0]
        nearest = sorted(reachable, key=lambda y, x=x: abs(x - y))[:kernel]
        expected = {y: (y - x) // dilation + kernel - 1 for y in nearest}
        assert {y: row for (q, y), row in inside.items() if q == x} == expected


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (2, 1), (5, 1), (3, 2), (4, 3)])
def test_a_causal_axis_looks_back_only(size, kernel, dilation):
    inside, _ = pairs(Neighborhood(kernel, dilation, causal=True, tile=3), size)
    back = {(x, x - n * dilation): kernel - 1 - n for x in range(size) for n in range(kernel) if x >= n * dilation}
    assert inside == back


@pytest.mark.parametrize("axis", [Window(4, 1), Window(3, 0, 2), Window(4, 0, 1, 2), Grid(3), Neighborhood(3)])
def test_keys_outside_are_left_out_unless_asked_for(axis):
    inside, beyond = pairs(axis, 7, outside=False)
    assert not any(beyond.values())
    assert inside == pairs(axis, 7, outside=True)[0]
    assert all(OUTSIDE not in keys for block in plan((7,), (axis,), outside=True) for keys in block.keys[0])


def test_equal_tiles_share_a_block():
    assert [len(block.queries[0]) for block in plan((1000,), windows((8,)), outside=False)] == [125]
    assert len(plan((1000, 1000), windows((7, 7), shift=(3, 3)), outside=True)) == 9
    assert len(plan((1000, 1000), neighborhood((7, 7)), outside=False)) <= 16


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Window(0), "size=0.*expected size >= 1"),
        (lambda: Window(4, 4), "shift=4.*shift < size"),
        (lambda: Window(4, -1), "shift=-1"),
        (lambda: Window(4, overlap=-1), "overlap=-1"),
        (lambda: Window(4, 1, overlap=1), "overlap allows no shift"),
        (lambda: windows((4, 4), dilation=2, overlap=1), "overlap allows no shift and no dilation"),
        (lambda: windows((4, 4), shift=(1,)), r"size \(4, 4\) and shift \(1,\)"),
        (lambda: grid((3, 0)), "size=0"),
        (lambda: Neighborhood(4), "kernel=4.*odd"),
        (lambda: Neighborhood(3, 0), "dilation=0"),
        (lambda: neighborhood((3, 3), dilation=(2,)), r"kernel \(3, 3\), dilation \(2,\)"),
        (lambda: neighborhood((3, 3), causal=(True,)), r"causal \(True,\)"),
    ],
)
def test_an_impossible_rule_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
