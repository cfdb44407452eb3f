from dataclasses import dataclass, field

import numpy as np
import pytest

from geovit.core.streaming.plan import Area, Plan
from geovit.core.streaming.run import Finished, run


@dataclass
class Copy:
    """Copies an image; what is beyond the used pixels it must not show."""

    image: np.ndarray
    plan: Plan
    read_parts: list = field(default_factory=list)

    def open(self):
        return self

    def read(self, part):
        self.read_parts.append(part.index)
        return self.image[:, part.rows.start : part.rows.stop, part.columns.start : part.columns.stop]

    def compute(self, data, part):
        rows, columns = part.rows, part.columns
        kept = data[:, rows.first - rows.start :, columns.first - columns.start :]
        kept = kept[:, : rows.last - rows.first, : columns.last - columns.first]
        up, down = self.plan.up, self.plan.down
        return kept[:, ::down, ::down].repeat(up, 1).repeat(up, 2)

    def finish(self, values, area):
        return Finished({"copy": values}, {"sum": float(values.sum())})


class Canvas:
    def __init__(self, shape, done=0):
        self.values, self.done, self.written = np.full(shape, np.nan, np.float32), done, []

    def write(self, part, area, finished):
        self.written.append(part)
        there = self.values[:, area.row : area.row + area.height, area.column : area.column + area.width]
        assert np.isnan(there).all(), "each pixel is written once"
        there[:] = finished.arrays["copy"]


PLANS = {
    "whole": Plan(image=(40, 50), area=Area(0, 0, 40, 50), side=64),
    "parts": Plan(image=(40, 50), area=Area(0, 0, 40, 50), side=16, multiple=4),
    "surroundings": Plan(image=(40, 50), area=Area(0, 0, 40, 50), side=16, overlap=8, multiple=4),
    "fading": Plan(image=(40, 50), area=Area(0, 0, 40, 50), side=24, overlap=8, fade=4, multiple=4),
    "area": Plan(image=(40, 50), area=Area(5, 7, 29, 31), side=24, overlap=8, fade=4, multiple=4),
    "enlarged": Plan(image=(40, 50), area=Area(3, 2, 30, 40), side=24, overlap=8, fade=4, multiple=4, up=3),
    "reduced": Plan(image=(40, 52), area=Area(4, 8, 33, 41), side=24, overlap=8, fade=8, multiple=4, down=4),
}


def expected(plan, image):
    area = plan.area
    part = image[:, area.row : area.row + area.height, area.column : area.column + area.width]
    return part[:, :: plan.down, :: plan.down].repeat(plan.up, 1).repeat(plan.up, 2)


@pytest.mark.parametrize("name", PLANS)
def test_parts_become_the_whole(name):
    plan = PLANS[name]
    image = np.random.default_rng(0).random((2, *plan.image), dtype=np.float32)
    canvas = Canvas((2, *plan.shape))
    run(plan, Copy(image, plan), canvas)
    np.testing.assert_allclose(canvas.values, expected(plan, image), rtol=2e-7)
    assert canvas.written == list(range(len(plan)))


@pytest.mark.parametrize("name", ["parts", "fading", "area", "reduced"])
def test_going_on_gives_the_same(name):
    plan = PLANS[name]
    image = np.random.default_rng(0).random((2, *plan.image), dtype=np.float32)
    whole = Canvas((2, *plan.shape))
    run(plan, Copy(image, plan), whole)
    for done in range(len(plan) + 1):
        rest = Canvas((2, *plan.shape), done)
        run(plan, Copy(image, plan), rest)
        missing = ~np.isnan(rest.values)
        assert rest.written == list(range(done, len(plan)))
        np.testing.assert_array_equal(rest.values[missing], whole.values[missing])
