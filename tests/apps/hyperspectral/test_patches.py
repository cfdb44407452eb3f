import pytest
import torch
from torch import nn

from geovit.apps.hyperspectral.patches import SlidingPatches


@pytest.fixture
def sliding(tiny_patches) -> SlidingPatches:
    torch.manual_seed(0)
    network = SlidingPatches(5, 3, config=tiny_patches.lola_specvit).eval()
    for name, parameter in network.named_parameters():  # as after training: the zeros at the start would hide mistakes
        nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.4)
    return network


@pytest.fixture
def x() -> torch.Tensor:
    return 3 + torch.randn(2, 5, 9, 12)


@torch.no_grad()
def test_every_position_gets_what_the_network_says_of_its_patch(sliding, x):
    logits = sliding(x)
    assert logits.shape == (2, 3, 3, 6)
    assert logits.std((2, 3)).min() > 0.1, "logits that are all alike would prove nothing"
    for row in range(3):
        for column in range(6):
            patch = x[:, :, row : row + 7, column : column + 7]
            mean, std = patch.mean((2, 3), keepdim=True), patch.std((2, 3), correction=0, keepdim=True)
            expected = sliding.network((patch - mean) / (std + 1e-6))
            torch.testing.assert_close(logits[:, :, row, column], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_chunks_do_not_matter(sliding, x, monkeypatch):
    whole = sliding(x)
    monkeypatch.setattr(SlidingPatches, "chunk", 5)
    torch.testing.assert_close(sliding(x), whole, rtol=1e-4, atol=1e-5)


def test_the_reach_is_half_a_patch(sliding, x):
    assert (sliding.receptive_field, sliding.window) == (3, 1)
    x.requires_grad_()
    sliding(x)[0, :, 1, 2].square().sum().backward()
    rows, columns = x.grad[0].abs().sum(0).nonzero().T
    assert (rows.min(), rows.max()) == (1, 7)
    assert (columns.min(), columns.max()) == (2, 8)


def test_an_even_patch_is_refused(tiny_patches):
    config = type(tiny_patches.lola_specvit)(patch=14)
    with pytest.raises(ValueError, match="patch is 14: an even patch has no pixel in its middle"):
        SlidingPatches(5, 3, config=config)
