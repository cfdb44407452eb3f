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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_not_seen_does_not_matter(dtype):
    layer, x = GlobalAttention(16, heads=2).to(dtype), torch.randn(2, 9, 16, dtype=dtype)
    seen = torch.ones(2, 9, dtype=torch.bool)
    seen[1, 6:] = False
    got = layer(x, seen)
    torch.testing.assert_close(got[:1], layer(x[:1]))
    torch.testing.assert_close(got[1:, :6], layer(x[1:, :6]))


def test_kernels_agree_forward_and_backward():
    layer, x = GlobalAttention(16, heads=2), torch.randn(2, 50, 16, requires_grad=True)
    (fused,) = torch.autograd.grad(layer(x).square().sum(), x)
    (masked,) = torch.autograd.grad(layer(x, torch.ones(2, 50, dtype=torch.bool)).square().sum(), x)
    (wide,) = torch.autograd.grad(layer.double()(x.double()).square().sum(), x)
    torch.testing.assert_close(fused, wide, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(masked, wide, rtol=1e-4, atol=1e-5)


def test_no_positions_give_none():
    assert GlobalAttention(8, heads=2)(torch.zeros(2, 0, 8)).shape == (2, 0, 8)
