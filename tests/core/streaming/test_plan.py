"""Plans of random sizes against a reference that holds everything in memory."""

import numpy as np
import pytest

from geovit.core.streaming.blend import Blend
from geovit.core.streaming.plan import Area, Plan

CASES = range(40)


def random_plan(seed: int) -> Plan:
    """A plan of any size, from one part to hundreds."""
    random = np.random.default_rng(seed)
    down = int(random.choice([1, 1, 2, 4]))
    up = int(random.choice([1, 1, 2, 3])) if down == 1 else 1
    multiple = down * int(random.choice([1, 2, 4]))
    fade = multiple * int(random.integers(0, 4))
    # Of what lies beside the fade, each side gets half.
    overlap = fade + 2 * multiple * int(random.integers(0, 3))
    side = overlap + max(fade, multiple) + multiple * int(random.integers(0, 5))
    image = tuple(int(n) for n in random.integers(1, 90, 2))
    row, column = (int(random.integers(0, n)) // down * down for n in image)
    height, width = (int(random.integers(1, n - first + 1)) for n, first in zip(image, (row, column), strict=True))
    area = Area(row, column, height, width) if seed % 3 else Area(0, 0, *image)
    return Plan(image=image, area=area, side=side, overlap=overlap, fade=fade, multiple=multiple, up=up, down=down)


def used(plan: Plan, part) -> np.ndarray:
    """What a part says of its pixels: its number and where they are, so that no two parts agree."""
    area = plan.used(part)
    rows, columns = np.ogrid[: area.height, : area.width]
    return np.stack([part.index + 0 * (rows + columns), rows * 1.5 + columns / 7]).astype(np.float32)


def reference(plan: Plan, values_of=used) -> np.ndarray:
    """Weighted means over all parts at once, in float64, and the area cut out of them."""
    corner = plan.rows[0].first * plan.up // plan.down, plan.columns[0].first * plan.up // plan.down
    bottom, right = (-(-tiles[-1].last * plan.up // plan.down) for tiles in (plan.rows, plan.columns))
    sums = np.zeros((2, bottom - corner[0], right - corner[1]))
    total = np.zeros(sums.shape[1:])
    for part in plan:
        values = values_of(plan, part).astype(np.float64)
        weights = np.outer(*(ramp(tile, plan.up, plan.down) for tile in (part.rows, part.columns)))
        row, column = (tile.first * plan.up // plan.down - c for tile, c in zip((part.rows, part.columns), corner, strict=True))
        there = slice(row, row + weights.shape[0]), slice(column, column + weights.shape[1])
        known = ~np.isnan(values).any(axis=0)
        sums[(slice(None), *there)] += np.where(known, values, 0) * weights
        total[there] += weights * known
    with np.errstate(invalid="ignore"):
        whole = sums / total
    row, column = (first * plan.up // plan.down - c for first, c in zip((plan.area.row, plan.area.column), corner, strict=True))
    return whole[:, row : row + plan.shape[0], column : column + plan.shape[1]]


def ramp(tile, up: int, down: int) -> np.ndarray:
    """Weights of a tile, pixel by pixel."""
    count = -(-(tile.last - tile.first) * up // down)
    into, out = tile.fade_in * up // down, tile.fade_out * up // down
    weights = []
    for pixel in range(count):
        weight = 1.0
        if pixel < into:
            weight = np.sin(np.pi / 2 * (pixel + 0.5) / into) ** 2
        if pixel >= count - out:
            weight = np.cos(np.pi / 2 * (pixel - (count - out) + 0.5) / out) ** 2
        weights.append(weight)
    return np.array(weights)


def streamed(plan: Plan, values_of=used) -> np.ndarray:
    """The same, part by part; each pixel must come once."""
    canvas = np.full((2, *plan.shape), np.inf, np.float32)
    blend = Blend(plan)
    for part in plan:
        values = blend.add(part, values_of(plan, part)) if plan.fade else values_of(plan, part)
        area, (rows, columns) = plan.place(part)
        there = canvas[:, area.row : area.row + area.height, area.column : area.column + area.width]
        assert np.isinf(there).all()
        there[:] = values[:, rows, columns]
        assert there.shape[1:] == (area.height, area.width)
    assert not np.isinf(canvas).any()
    return canvas


@pytest.mark.parametrize("seed", CASES)
def test_parts_are_blended_as_by_the_reference(seed):
    plan = random_plan(seed)
    np.testing.assert_allclose(streamed(plan), reference(plan), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", CASES)
def test_where_one_part_has_no_data_the_other_counts_alone(seed):
    plan = random_plan(seed)
    random = np.random.default_rng(seed)
    holes = {part.index: random.random(used(plan, part).shape[1:]) < 0.3 for part in plan}

    def with_holes(plan: Plan, part) -> np.ndarray:
        return np.where(holes[part.index], np.float32(np.nan), used(plan, part))

    np.testing.assert_allclose(streamed(plan, with_holes), reference(plan, with_holes), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("seed", CASES)
def test_parts_look_at_what_they_need(seed):
    plan = random_plan(seed)
    around = (plan.overlap - plan.fade) // 2
    spans = (
        (plan.rows, plan.area.row, plan.area.height, plan.image[0]),
        (
            plan.columns,
            plan.area.column,
            plan.area.width,
            plan.image[1],
        ),
    )
    for tiles, first, pixels, size in spans:
        assert tiles[0].first <= first
        assert tiles[-1].last >= first + pixels
        for tile in tiles:
            assert 0 <= tile.start <= tile.first < tile.last <= tile.stop <= size
            assert tile.start % plan.multiple == 0
            assert tile.stop % plan.multiple == 0 or tile.stop == size
            assert tile.stop - tile.start <= plan.side
            # Of the area, no pixel is made without its surroundings, unless the image ends there.
            assert tile.start == 0 or max(tile.first, first) - tile.start >= around
            assert tile.stop == size or tile.stop - min(tile.last, first + pixels) >= around


@pytest.mark.parametrize("seed", CASES)
def test_what_is_computed_again_suffices_to_go_on(seed):
    plan = random_plan(seed)
    whole = streamed(plan)
    for done in {1, len(plan) // 3, len(plan) // 2, len(plan) - 1} - {0}:
        blend = Blend(plan)
        for part in [*plan.again(done), *(plan.part(index) for index in range(done, len(plan)))]:
            values = blend.add(part, used(plan, part)) if plan.fade else used(plan, part)
            if part.index >= done:
                area, (rows, columns) = plan.place(part)
                expected = whole[:, area.row : area.row + area.height, area.column : area.column + area.width]
                np.testing.assert_array_equal(values[:, rows, columns], expected)


def test_an_area_of_a_large_image_plans_no_more_than_it_needs():
    plan = Plan(image=(100_000, 100_000), area=Area(50_000, 70_000, 300, 300), side=512, overlap=64, multiple=8)
    assert len(plan) <= 4
    assert plan.rows[0].start >= 50_000 - 64
    assert plan.rows[-1].stop <= 50_300 + 64


def test_a_plan_that_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match="expected multiples of 4"):
        Plan(image=(64, 64), area=Area(2, 0, 8, 8), side=32, multiple=4, down=4)
    with pytest.raises(ValueError, match="expected 48 or more at an overlap of 32"):
        _ = Plan(image=(64, 64), area=Area(0, 0, 64, 64), side=32, overlap=32, fade=16, multiple=8).rows
