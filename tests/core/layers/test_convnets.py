"""The layers of convolutional restoration networks, each against its formula written out."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from geovit.core.layers.norm import DeviationNorm
from geovit.core.layers.reuse import add, multiply
from geovit.core.layers.simple_gate import SimpleChannelAttention, simple_gate
from geovit.core.layers.transposed_attention import GatedConvMLP, TransposedAttention


def conv(x, layer):
    """A layer with weights for channels-last tokens, on channels-first images."""
    kernel = layer.weight if layer.weight.ndim == 4 else layer.weight[:, :, None, None]
    groups = len(kernel) if kernel.shape[1] == 1 else 1
    return F.conv2d(x, kernel, layer.bias, padding=kernel.shape[-1] // 2, groups=groups)


@pytest.mark.parametrize("bias", [False, True])
def test_transposed_attention_is_the_papers(bias):
    layer = TransposedAttention(8, heads=2, bias=bias).double()
    nn.init.uniform_(layer.temperature, 0.5, 2.0)
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    q, k, v = conv(conv(x, layer.qkv.linear), layer.qkv.conv).unflatten(1, (3, 2, 4)).flatten(-2).unbind(1)
    scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * layer.temperature
    want = conv((scores.softmax(-1) @ v).reshape(2, 8, 5, 6), layer.proj)
    got = layer(x.permute(0, 2, 3, 1))
    torch.testing.assert_close(got.permute(0, 3, 1, 2), want)


def test_a_channel_of_zeros_has_no_direction():
    layer = TransposedAttention(4, heads=1)
    y = layer(torch.zeros(1, 3, 3, 4, requires_grad=True))
    y.sum().backward()
    assert y.isfinite().all()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_heads_divide_the_channels():
    with pytest.raises(ValueError, match="dim 8 is not a multiple of heads 3"):
        TransposedAttention(8, heads=3)


@pytest.mark.parametrize("bias", [False, True])
def test_the_gated_mixer_is_the_papers(bias):
    layer = GatedConvMLP(6, 15, bias=bias).double()
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    gate, value = conv(conv(x, layer.fc1.linear), layer.fc1.conv).chunk(2, 1)
    want = conv(F.gelu(gate) * value, layer.fc2)
    torch.testing.assert_close(layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_deviation_norm_keeps_the_mean(dtype):
    norm, x = DeviationNorm(64).to(dtype), (3 + torch.randn(2, 5, 64)).to(dtype)
    nn.init.uniform_(norm.weight, 0.5, 2.0)
    exact = x.double()
    want = exact / (exact.var(-1, correction=0, keepdim=True) + 1e-5).sqrt() * norm.weight.double()
    torch.testing.assert_close(norm(x), want.to(dtype))


def window_means(x, window):
    """Means of windows around each position, moved inside the image."""
    height, width = x.shape[1:3]
    kh, kw = min(window[0], height), min(window[1], width)
    y = torch.empty_like(x)
    for i in range(height):
        for j in range(width):
            top = min(max(i - (height - (height - kh + 1)) // 2, 0), height - kh)
            left = min(max(j - (width - (width - kw + 1)) // 2, 0), width - kw)
            y[:, i, j] = x[:, top : top + kh, left : left + kw].mean((1, 2))
    return y


@pytest.mark.parametrize("window", [(3, 3), (4, 9), (20, 2), (1, 1), (7, 11), (100, 100)])
def test_channel_attention_takes_means_of_windows_inside_the_image(window):
    layer, x = SimpleChannelAttention(4).double(), torch.randn(2, 7, 11, 4, dtype=torch.float64)
    layer.window = window
    torch.testing.assert_close(layer(x.clone()), x * layer.proj(window_means(x, window)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_means_of_windows_keep_their_digits_on_wide_images(dtype):
    layer, x = SimpleChannelAttention(2).to(dtype), (100 + torch.rand(1, 4, 4000, 2)).to(dtype)
    layer.window = (4, 500)
    exact = SimpleChannelAttention(2).double()
    exact.load_state_dict(layer.state_dict())
    exact.window = layer.window
    with torch.no_grad():
        want, got = exact(x.double()), layer(x.clone())
    assert (got.double() - want).abs().max() <= (1e-6 if dtype == torch.float32 else 3e-2) * want.abs().max()


def test_the_simple_gate_multiplies_halves():
    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(simple_gate(x), x[..., :4] * x[..., 4:])


def test_memory_is_reused_only_where_no_gradient_is_asked_for():
    own, other, scale = torch.ones(2, 3), torch.full((2, 3), 2.0), torch.full((3,), 3.0)
    assert add(own, other) is not own
    assert multiply(own, other) is not own
    with torch.no_grad():
        assert add(own.half(), other).dtype == torch.float32
        assert add(torch.ones(3), other).shape == (2, 3)
        assert add(own, other) is own
        assert add(own, other, scale) is own
        assert multiply(own, other) is own
    torch.testing.assert_close(own, torch.full((2, 3), 18.0))
