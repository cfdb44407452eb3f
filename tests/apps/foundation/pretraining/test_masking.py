"""What is hidden: how much, where, and that it follows from the seed alone."""

import pytest
import torch

from geovit.apps.foundation.pretraining.masking import Masking, choose, hidden_count, hide, hide_bands

ALL = torch.ones(3, 1, 6, 8, dtype=torch.bool)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_share_of_places_is_hidden_in_each_image():
    (hidden,) = hide([ALL], Masking(space=0.75), seeded())
    assert hidden.dtype == torch.bool
    assert hidden.shape == ALL.shape
    assert hidden.flatten(1).sum(1).tolist() == [36, 36, 36]
    assert not torch.equal(hidden[0], hidden[1])


def test_the_same_seed_hides_the_same_and_another_does_not():
    one, same, other = (hide([ALL], Masking(), seeded(seed))[0] for seed in (5, 5, 6))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_generator_goes_on_where_its_state_was_kept():
    generator = seeded()
    hide([ALL], Masking(), generator)
    state = generator.get_state()
    expected = hide([ALL], Masking(bands=0.5), generator)[0]
    later = torch.Generator()
    later.set_state(state)
    assert torch.equal(hide([ALL], Masking(bands=0.5), later)[0], expected)


def test_with_a_generator_for_each_image_a_mask_does_not_depend_on_the_batch():
    spectral = torch.ones(4, 5, 6, 8, dtype=torch.bool)
    masking = Masking(space=0.5, bands=0.4)
    whole = hide([spectral], masking, [seeded(i) for i in range(4)])[0]
    parts = [hide([spectral[i : i + 2]], masking, [seeded(i), seeded(i + 1)])[0] for i in (0, 2)]
    assert torch.equal(whole, torch.cat(parts))


def test_a_shared_mask_is_one_and_others_are_their_own():
    one, other = hide([ALL, ALL], Masking(shared=True), seeded())
    assert torch.equal(one, other)
    one, other = hide([ALL, ALL], Masking(shared=False), seeded())
    assert not torch.equal(one, other)


def test_a_shared_mask_spans_sensors_of_different_spectral_tokens():
    many = ALL.expand(-1, 7, -1, -1)
    one, other = hide([ALL, many], Masking(), seeded())
    assert torch.equal(one.expand_as(many), other)


def test_sensors_on_other_grids_cannot_share_a_mask_but_can_have_their_own():
    small = ALL[:, :, :3, :4]
    with pytest.raises(ValueError, match=r"sensors of 1x6x8 and 1x3x4 tokens cannot share a mask; set shared to false"):
        hide([ALL, small], Masking(), seeded())
    assert [h.flatten(1).sum(1).tolist() for h in hide([ALL, small], Masking(shared=False), seeded())] == [[36] * 3, [9] * 3]


def test_spectral_tokens_are_hidden_at_the_same_places_or_at_their_own():
    spectral = torch.ones(2, 4, 6, 6, dtype=torch.bool)
    (joint,) = hide([spectral], Masking(space=0.5), seeded())
    assert torch.equal(joint, joint[:, :1].expand_as(joint))
    (independent,) = hide([spectral], Masking(space=0.5, spectral="independent"), seeded())
    assert independent.flatten(1).sum(1).tolist() == [72, 72]
    assert not torch.equal(independent[:, 0], independent[:, 1])


def test_whole_bands_are_hidden_beside_places():
    spectral = torch.ones(3, 4, 6, 6, dtype=torch.bool)
    (hidden,) = hide([spectral], Masking(space=0.5, bands=0.5), seeded())
    assert hidden.flatten(2).all(2).sum(1).tolist() == [2, 2, 2]
    assert hidden.flatten(1).sum(1).tolist() == [2 * 36 + 2 * 18] * 3
    (bands,) = hide([spectral], Masking(space=0.0, bands=0.5), seeded())
    assert torch.equal(bands, bands[:, :, :1, :1].expand_as(bands))


def test_missing_data_is_hidden_to_the_same_share_as_what_is_there():
    valid = ALL.clone()
    valid[0, 0, :3] = False  # half of an image
    valid[1, 0] = False  # all of it
    valid[1, 0, 0, 0] = True  # but one
    (hidden,) = hide([valid], Masking(space=0.75), seeded())
    assert hidden.flatten(1).sum(1).tolist() == [36, 36, 36]  # equal counts, as batches need
    assert (hidden & valid).flatten(1).sum(1).tolist() == [18, 0, 36]


@pytest.mark.parametrize("count", [1, 2, 5, 9, 11])
@pytest.mark.parametrize("there", range(13))
def test_counts_are_exact_however_much_is_missing(count, there):
    valid = torch.arange(12)[None] < there
    chosen = choose(torch.rand(1, 12), valid, count)
    assert chosen.sum() == count
    own = int((chosen & valid).sum())
    assert abs(own - count * there / 12) <= 1
    assert own < max(there, 1)  # something to see stays


def test_bands_that_an_image_lacks_are_not_counted():
    present = torch.ones(2, 8, dtype=torch.bool)
    present[1, 4:] = False
    hidden = hide_bands(present, 0.5, seeded())
    assert hidden.sum(1).tolist() == [4, 4]
    assert (hidden & present).sum(1).tolist() == [4, 2]
    assert not hide_bands(present[:, :1], 0.5, seeded()).any()  # a single band stays


@pytest.mark.parametrize(("count", "share", "expected"), [(196, 0.75, 147), (4, 0.01, 1), (4, 0.99, 3), (2, 0.5, 1)])
def test_at_least_one_is_hidden_and_one_seen(count, share, expected):
    assert hidden_count(count, share) == expected


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"space": 1.0}, "share of space is 1.0"),
        ({"bands": -0.1}, "share of bands is -0.1"),
        ({"space": 0.0}, "nothing to predict"),
        ({"spectral": "other"}, "'joint' and 'independent'"),
        ({"spectral": "independent", "bands": 0.5}, "'joint' only"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        Masking(**options)


def test_a_single_token_cannot_be_hidden():
    with pytest.raises(ValueError, match="take larger images"):
        hide([ALL[:, :, :1, :1]], Masking(), seeded())
