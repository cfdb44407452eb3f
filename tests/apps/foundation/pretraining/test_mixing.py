"""Tokens that change streams."""

from dataclasses import replace

import pytest
import torch

from geovit.apps.foundation.pretraining.mixing import check_mixable, draw_swapped, exchange
from geovit.core.layers.tokenizers import Tokens


def tokens(batch: int = 2, spectral: int = 1, side: int = 4, pitch: float = 80.0) -> Tokens:
    return Tokens(torch.randn(batch, spectral, side, side, 3), None, torch.full((batch,), pitch))


def test_both_streams_are_mixed_each_with_the_other_as_it_was():
    first, second = torch.randn(2, 4, 4, 3), torch.randn(2, 4, 4, 3)
    swapped = draw_swapped(tokens(), 0.5, torch.Generator().manual_seed(0))
    assert swapped.flatten(1).sum(1).tolist() == [8, 8]
    one, other = exchange(first, second, swapped)
    assert torch.equal(one[swapped], second[swapped])
    assert torch.equal(one[~swapped], first[~swapped])
    assert torch.equal(other[swapped], first[swapped])
    assert torch.equal(other[~swapped], second[~swapped])


def test_an_exchange_done_twice_is_undone():
    first, second = torch.randn(2, 4, 4), torch.randn(2, 4, 4)
    swapped = torch.rand(2, 4, 4) < 0.3
    back = exchange(*exchange(first, second, swapped), swapped)
    assert torch.equal(back[0], first)
    assert torch.equal(back[1], second)


def test_places_follow_from_the_seed():
    one, same, other = (draw_swapped(tokens(), 0.5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_only_places_that_lie_on_each_other_are_mixed():
    check_mixable([tokens(), tokens(pitch=80.01)])
    with pytest.raises(ValueError, match="2 images of 4 x 4 tokens do not fit 2 images of 5 x 5 tokens"):
        check_mixable([tokens(), tokens(side=5)])
    with pytest.raises(ValueError, match="2 images of 4 x 4 tokens do not fit 3 images"):
        check_mixable([tokens(), tokens(batch=3)])
    with pytest.raises(ValueError, match="as far apart in all images, these are 80 and 240 m"):
        check_mixable([tokens(), tokens(pitch=240.0)])
    with pytest.raises(ValueError, match="must join all bands, these images have 1 and 12"):
        check_mixable([tokens(), replace(tokens(), x=torch.randn(2, 12, 4, 4, 3))])
