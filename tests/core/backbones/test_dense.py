import pytest
import torch
from torch import nn

from geovit.core.backbones.dense import DenseBackbone, window_blocks
from geovit.core.layers.embed import SpectralEmbed


def backbone(*, depth: int = 3, window: int = 4, spatial: int = 3) -> DenseBackbone:
    torch.manual_seed(0)
    embed = SpectralEmbed(6, 8, channels=(2,), kernels=(3,), strides=(2,), spatial=(spatial,))
    model = DenseBackbone(embed, window_blocks(8, depth, heads=2, window=window), dim=8).double().eval()
    for parameter in model.parameters():  # strong enough that every path shows in float64
        nn.init.normal_(parameter, std=0.5)
    return model


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (16, 9)])
def test_one_token_for_each_pixel_of_any_size(size):
    assert backbone()(torch.randn(2, 6, *size).double()).shape == (2, *size, 8)


@pytest.mark.parametrize(("depth", "window", "spatial"), [(0, 4, 5), (1, 4, 3), (2, 4, 1), (3, 4, 3), (2, 5, 1), (1, 1, 1)])
def test_receptive_field_is_the_exact_reach(depth, window, spatial):
    model = backbone(depth=depth, window=window, spatial=spatial)
    reach = model.receptive_field
    middle = reach + model.window
    image = torch.randn(1, 6, 2 * middle + 1, 2 * middle + 1, dtype=torch.float64, requires_grad=True)
    tokens = model(image)
    seen = []
    for y, x in [(middle + i, middle + j) for i in range(model.window) for j in (0, i)]:
        (grad,) = torch.autograd.grad(tokens[0, y, x].sum(), image, retain_graph=True)
        rows, columns = grad.abs().sum((0, 1)).nonzero().T
        seen += [y - rows.min(), rows.max() - y, x - columns.min(), columns.max() - x]
    assert max(seen) == reach


def test_tile_with_a_halo_equals_the_whole():
    model = backbone()
    period, halo = model.window, model.receptive_field
    halo = -(-halo // period) * period
    image = torch.randn(1, 6, 61, 53, dtype=torch.float64)
    whole = model(image)
    for top, left in [(0, 0), (3 * period, 5 * period), (8 * period, 0)]:
        y, x = max(top - halo, 0), max(left - halo, 0)
        tile = model(image[..., y : top + 3 * period + halo, x : left + 2 * period + halo])
        inner = tile[:, top - y :, left - x :][:, : 3 * period, : 2 * period]
        torch.testing.assert_close(inner, whole[:, top : top + 3 * period, left : left + 2 * period], rtol=1e-12, atol=1e-12)


def test_a_tile_off_the_grid_differs():
    """Shows that the alignment which the tile test uses is needed, and that this network would tell."""
    model = backbone()
    image = torch.randn(1, 6, 64, 64, dtype=torch.float64)
    inner = slice(31, 33)
    assert not torch.allclose(model(image[..., 1:, 1:])[:, 30:32, 30:32], model(image)[:, inner, inner])


def test_every_second_block_is_shifted_and_all_share_the_drop_path():
    blocks = window_blocks(8, 4, heads=2, window=6, drop_path=0.3)
    assert [block.mixer.shift for block in blocks] == [(0, 0), (3, 3), (0, 0), (3, 3)]
    assert [block.drop_path.rate for block in blocks] == [0.3] * 4


def test_parts_of_unknown_reach_are_refused():
    with pytest.raises(ValueError, match=r"embed with a radius .* got Identity, WindowAttention"):
        DenseBackbone(nn.Identity(), window_blocks(8, 1, heads=2), dim=8)
    block = window_blocks(8, 1, heads=2)[0]
    block.mixer = nn.Linear(8, 8)
    with pytest.raises(ValueError, match="got SpectralEmbed, Linear"):
        DenseBackbone(SpectralEmbed(6, 8), [block], dim=8)
