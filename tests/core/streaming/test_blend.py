import numpy as np
import pytest

from geovit.core.streaming.blend import Blend, blended, reaching
from geovit.core.streaming.plan import Area, Plan


@pytest.mark.parametrize("fade", [0, 4, 8])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (3, 1), (1, 2)])
def test_a_part_alone_is_finished_bit_for_bit_as_in_the_course_of_all(fade, up, down):
    plan = Plan(image=(60, 52), area=Area(0, 0, 60, 52), side=24, overlap=8, fade=fade, multiple=8, up=up, down=down)
    rng = np.random.default_rng(0)
    values = {part.index: rng.normal(size=(2, *_size(plan, part))).astype(np.float32) for part in plan}
    for made in values.values():
        made[:, rng.random(made.shape[1:]) < 0.3] = np.nan
    blend = Blend(plan)
    for part in plan:
        expected = blend.add(part, values[part.index]) if fade else values[part.index]
        needed = {other.index: values[other.index] for other in reaching(plan, part)}
        np.testing.assert_array_equal(blended(plan, part, needed), expected)


def _size(plan, part):
    used = plan.used(part)
    return used.height, used.width
