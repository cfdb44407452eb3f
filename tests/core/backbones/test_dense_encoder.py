import pytest
import torch

from geovit.core.backbones.dense_encoder import DenseEncoder
from geovit.core.sensors.encoder import EncoderConfig, build_encoder

WAVELENGTHS = torch.tensor([450.0, 550.0, 660.0, 860.0])


def dense(patch: int, context: int, stride: int = 1) -> DenseEncoder:
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(dim=16, depth=2, heads=2, patch=patch))
    return DenseEncoder(encoder, context=context, stride=stride).double().eval()


CASES = [(1, 3, 1), (1, 1, 1), (2, 2, 1), (4, 2, 1), (4, 2, 2), (4, 3, 4), (3, 2, 1)]


@torch.inference_mode()
@pytest.mark.parametrize(("patch", "context", "stride"), CASES)
def test_a_tile_gives_what_the_whole_gives(patch, context, stride):
    network = dense(patch, context, stride)
    window, reach = network.window, network.receptive_field
    x = torch.randn(2, 4, 5 * window + 1, 4 * window + 2, dtype=torch.float64)
    whole = network(x, WAVELENGTHS, 30.0)
    assert whole.shape == (2, *x.shape[2:], 16)
    top, left = window, 2 * window
    tile = network(x[:, :, top : top + 3 * window, left:], WAVELENGTHS, 30.0)
    inner = tile[:, reach : 3 * window - reach, reach:]
    assert inner.shape[1] > 0
    torch.testing.assert_close(inner, whole[:, top + reach : top + 3 * window - reach, left + reach :])


@torch.inference_mode()
@pytest.mark.parametrize(("patch", "context", "stride"), CASES)
def test_nothing_beyond_the_reach_counts_and_something_at_it_does(patch, context, stride):
    network = dense(patch, context, stride)
    reach, window = network.receptive_field, network.window
    x = torch.randn(1, 4, 1, 1, dtype=torch.float64).expand(-1, -1, window, 7 * window).clone()
    x += torch.randn_like(x)
    before = network(x, WAVELENGTHS, 30.0)
    farthest = 0
    for column in range(3 * window, 4 * window):
        other = x.clone()
        other[..., column] += 1.0
        moved = (network(other, WAVELENGTHS, 30.0) - before).abs().amax((0, 1, 3)) > 1e-9
        farthest = max(farthest, *(abs(int(c) - column) for c in moved.nonzero()))
    assert farthest == reach


@torch.inference_mode()
def test_a_token_belongs_to_the_middle_of_its_patch():
    network = dense(patch=4, context=1)  # no surroundings: a token is its patch
    x = torch.zeros(1, 4, 12, 12, dtype=torch.float64)
    x[:, :, 6, 6] = 5.0
    changed = (network(x, WAVELENGTHS, 30.0) - network(torch.zeros_like(x), WAVELENGTHS, 30.0)).abs().amax(-1)[0] > 1e-9
    rows, columns = changed.nonzero().T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 7, 4, 7)  # patches from one pixel before to two after


def test_impossible_geometry_is_refused():
    for context, stride in ((0, 1), (2, 3), (2, 0)):
        with pytest.raises(ValueError, match=f"context {context}, stride {stride}"):
            dense(4, context, stride)
