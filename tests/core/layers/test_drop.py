import pytest
import torch

from geovit.core.layers.drop import DropPath


def test_whole_samples_are_dropped_and_the_mean_is_kept():
    torch.manual_seed(0)
    x = torch.ones(20_000, 3, 2)
    y = DropPath(0.25)(x)
    per_sample = y.flatten(1)
    assert (per_sample == per_sample[:, :1]).all()
    assert per_sample.unique().tolist() == pytest.approx([0, 4 / 3])
    assert y.mean().item() == pytest.approx(1, abs=0.02)


def test_evaluation_drops_nothing():
    x = torch.randn(5, 3)
    assert torch.equal(DropPath(0.9).eval()(x), x)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_impossible_rate_is_named(rate):
    with pytest.raises(ValueError, match=f"rate is {rate}"):
        DropPath(rate)
