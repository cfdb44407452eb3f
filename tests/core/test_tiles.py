import itertools

import pytest
import torch

from geovit.core.tiles import cut


@pytest.mark.parametrize(
    ("multiple", "overlap", "tile", "scale"), list(itertools.product((1, 8, 16), (0, 16, 64), (96, 128, 320), (1, 3)))
)
def test_tiles_keep_the_phase_and_their_weights_sum_to_one(multiple, overlap, tile, scale):
    for size, fade in itertools.product((1, 7, 64, 100, 1000), {0, overlap // 2}):
        tiles = cut(size, tile, overlap=overlap, fade=fade, multiple=multiple)
        total = torch.zeros(size * scale)
        for one in tiles:
            assert one.start % multiple == 0
            assert one.start <= one.first < one.last <= one.stop <= size
            assert one.stop - one.start <= tile
            assert one.stop == size or one.stop % multiple == 0
            total[one.first * scale : one.last * scale] += one.weights(scale)
        torch.testing.assert_close(total, torch.ones_like(total))
        assert tiles[0].start == 0
        assert tiles[-1].stop == size


def test_fades_of_the_smallest_tiles_do_not_overlap():
    for size in range(95, 300):
        total = torch.zeros(size)
        for one in cut(size, 94, overlap=63, fade=31):
            total[one.first : one.last] += one.weights()
        torch.testing.assert_close(total, torch.ones_like(total))


def test_what_is_used_lies_half_the_overlap_inside_or_a_quarter_where_it_fades():
    for fade, margin in ((0, 32), (32, 16)):
        for before, after in itertools.pairwise(cut(1000, 256, overlap=64, fade=fade, multiple=8)):
            assert before.stop - before.last == after.first - after.start == margin
            assert before.last - after.first == fade


def test_tiles_are_nearly_equal():
    sizes = [one.stop - one.start for one in cut(530, 512, overlap=64, fade=32, multiple=16)]
    assert sizes == [304, 290]


def test_sizes_that_lead_nowhere_are_told():
    with pytest.raises(ValueError, match="tile is 64, expected 72 or more at an overlap of 64"):
        cut(1000, 64, overlap=64, multiple=8)
    with pytest.raises(ValueError, match="expected multiples of 8"):
        cut(1000, 60, overlap=16, multiple=8)
