import numpy as np
import pytest
import torch

from geovit.apps.restoration.crops import Crops
from geovit.datasets.pairs import Pair


def numbered(height, width, scale, name="image"):
    """A source in which each pixel has its own value, and a target that repeats it."""
    source = np.arange(height * width, dtype=np.uint16).reshape(height, width, 1)
    return Pair(name, source, source.repeat(scale, 0).repeat(scale, 1))


def crops(pairs, **options):
    return Crops(pairs, **{"scale": 3, "size": 6, "length": 50, "seed": (0,), **options})


def test_sources_and_targets_show_the_same_place_turned_alike():
    for source, target in crops([numbered(9, 13, 3), numbered(20, 7, 3)]):
        assert source.shape == (1, 6, 6)
        assert torch.equal(target, source.repeat_interleave(3, 1).repeat_interleave(3, 2))


def test_all_eight_orientations_and_all_places_occur():
    found = crops([numbered(7, 7, 3)], length=400)
    corners = {tuple(source[0, ::5, ::5].flatten().tolist()) for source, _ in found}
    assert len(corners) == 8 * 4


def test_crops_follow_from_seed_epoch_and_index():
    pairs = [numbered(30, 40, 3)]
    a, b, c, d = (crops(pairs, seed=(seed,), epoch=epoch) for seed, epoch in ((0, 0), (0, 0), (1, 0), (0, 1)))
    assert torch.equal(a[7][0], b[7][0])
    assert not torch.equal(a[7][0], c[7][0])
    assert not torch.equal(a[7][0], d[7][0])


def test_values_are_fractions_of_the_peak():
    white = np.full((8, 8, 3), 255, np.uint8)
    source, target = crops([Pair("white", white, white)], scale=1)[0]
    assert source.min() == target.min() == 1.0


def test_of_several_choices_the_one_with_detail_is_taken():
    flat, busy = (np.full((8, 8, 1), 9, np.uint8), np.indices((8, 8)).sum(0).astype(np.uint8)[..., None] % 2 * 200)
    pairs = [Pair("flat", flat, flat), Pair("busy", busy, busy)]
    share = [np.mean([float(s.std()) > 0 for s, _ in crops(pairs, scale=1, choices=n, length=200)]) for n in (1, 4)]
    assert 0.35 < share[0] < 0.65
    assert share[1] > 0.9


def test_targets_that_are_degraded_later_come_with_a_margin():
    target = numbered(30, 30, 1).target
    source, crop = crops([Pair("image", None, target)], scale=2, size=6, margin=4)[0]
    assert torch.equal(source, crop)
    assert crop.shape == (1, 28, 28)


def test_small_images_are_named():
    with pytest.raises(ValueError, match="tiny has 5 x 9 pixels when reduced, a crop takes 6 x 6"):
        crops([numbered(9, 5, 3, "tiny")])
