import pytest
import torch

from geovit.core.layers.global_attention import GlobalAttention


@pytest.mark.parametrize("size", [(7,), (3, 5), (2, 3, 2)])
def test_every_position_attends_to_all(size):
    torch.manual_seed(0)
    layer, x = GlobalAttention(8, heads=2).double(), torch.randn(2, *size, 8, dtype=torch.float64)
    q, k, v = (z.unflatten(-1, (2, 4)) for z in layer.qkv(x.flatten(1, -2)).chunk(3, -1))
    weights = (torch.einsum("bihd,bjhd->bhij", q, k) / 2).softmax(-1)
    want = layer.proj(torch.einsum("bhij,bjhd->bihd", weights, v).flatten(2))
    torch.testing.assert_close(layer(x).flatten(1, -2), want)


def test_heads_that_do_not_divide_the_channels_are_named():
    with pytest.raises(ValueError, match="dim 10 is not a multiple of heads 3"):
        GlobalAttention(10, heads=3)
