import math

import pytest
import torch
from torch import nn

from geovit.core.layers.attention import LocalAttention, NeighborhoodAttention, OverlapAttention, WindowAttention
from geovit.core.layers.channel_attention import ChannelAttention
from geovit.core.layers.position import AbsolutePosition, ContinuousBias, ConvPosition
from geovit.core.layers.stripe import StripeAttention
from geovit.core.ops.local_attention import grid


def reach(layer, size, at):
    """Positions whose input changes the output at a position."""
    torch.manual_seed(0)
    layer = layer.double()
    x = torch.randn(1, *size, 12, dtype=torch.float64, requires_grad=True)
    layer(x)[(0, *at)].square().sum().backward()
    return {tuple(i.tolist()) for i in x.grad[0].abs().sum(-1).nonzero()}


def test_neighborhood_reaches_the_nearest_tokens():
    layer = NeighborhoodAttention(12, heads=2, kernel=(3, 3))
    assert reach(layer, (6, 7), (0, 3)) == {(y, x) for y in range(3) for x in (2, 3, 4)}


def test_neighborhood_may_be_dilated_and_causal():
    layer = NeighborhoodAttention(12, heads=2, kernel=(3, 2), dilation=(2, 1), causal=(False, True))
    assert reach(layer, (7, 6), (3, 4)) == {(y, x) for y in (1, 3, 5) for x in (3, 4)}


def test_overlap_reaches_around_the_window():
    layer = OverlapAttention(12, heads=2, window=(4, 4), overlap=2)
    assert reach(layer, (8, 12), (1, 5)) == {(y, x) for y in range(6) for x in range(2, 10)}
    assert layer.bias_table.shape == ((2 * 6 - 1) ** 2, 2)


def test_zero_keys_outside_take_a_share_of_the_attention():
    torch.manual_seed(0)
    layer = OverlapAttention(12, heads=2, window=(4,), overlap=1, outside="zero", position_bias=None, qkv_bias=False)
    with torch.no_grad():
        layer.proj.bias.zero_()
        layer.qkv.weight[:24] = 0  # equal scores: every key has the same weight
        x = torch.randn(1, 4, 12)
        unseen = OverlapAttention(12, heads=2, window=(4,), overlap=1, position_bias=None, qkv_bias=False)
        unseen.load_state_dict(layer.state_dict())
        unseen.proj.bias.zero_()
        torch.testing.assert_close(layer(x), unseen(x) * 4 / 6)


def test_grid_reaches_evenly_over_the_image():
    layer = LocalAttention(12, heads=2, pattern=grid((2, 3)))
    assert reach(layer, (4, 6), (1, 2)) == {(y, x) for y in (1, 3) for x in (0, 2, 4)}


def test_single_window_is_shifted_only_on_request():
    options = {"heads": 2, "window": (4, 4), "shift": (2, 2)}
    assert reach(WindowAttention(12, **options), (4, 8), (0, 0)) == {(y, x) for y in range(2) for x in range(2)}
    layer = WindowAttention(12, **options, shift_single=False)
    assert reach(layer, (4, 8), (0, 0)) == {(y, x) for y in range(4) for x in range(2)}


def test_cosine_scores_ignore_the_length_of_tokens_and_their_factor_is_clamped():
    torch.manual_seed(0)
    layer = WindowAttention(12, heads=2, window=(4,), cosine=True, qkv_bias=False, position_bias=None).double()
    x = torch.randn(1, 4, 12, dtype=torch.float64)
    with torch.no_grad():
        layer.proj.bias.zero_()
        torch.testing.assert_close(layer(3 * x), 3 * layer(x))
        before = layer(x)
        layer.log_scale.fill_(math.log(100))
        clamped = layer(x)
        layer.log_scale.fill_(9.0)
        assert not torch.allclose(clamped, before)
        torch.testing.assert_close(layer(x), clamped)


@pytest.mark.parametrize("adapted", [False, True])
def test_key_bias_of_zero_is_a_bias_of_zero(adapted):
    torch.manual_seed(0)
    options = {"heads": 2, "window": (3,), "border": "zeros"}
    with_bias, without = WindowAttention(12, **options), WindowAttention(12, **options, key_bias=False)
    with torch.no_grad():
        without.qv_bias.normal_()
        state = {key: t for key, t in without.state_dict().items() if key != "qv_bias"}
        q, v = without.qv_bias
        with_bias.load_state_dict({**state, "qkv.bias": torch.cat([q, torch.zeros(12), v])})
        without.qkv = nn.Sequential(without.qkv) if adapted else without.qkv
        x = torch.randn(2, 7, 12)
        torch.testing.assert_close(without(x), with_bias(x))


def test_stripes_form_a_cross():
    torch.manual_seed(0)
    layer = StripeAttention(12, heads=2, split=2)
    cross = {(y, x) for y in range(5) for x in (2, 3)} | {(y, x) for y in (0, 1) for x in range(7)}
    assert reach(layer, (5, 7), (1, 3)) == cross
    assert reach(StripeAttention(12, heads=2, split=None), (3, 4), (1, 3)) == {(y, x) for y in range(3) for x in range(4)}


def test_stripes_of_a_volume_have_a_third_of_the_heads_each():
    layer = StripeAttention(12, heads=3, axes=3, split=2)
    rods = [(range(4), (0, 1), (2, 3)), ((0, 1), range(3), (2, 3)), ((0, 1), (0, 1), range(5))]
    assert reach(layer, (4, 3, 5), (0, 1, 2)) == {(i, j, k) for a, b, c in rods for i in a for j in b for k in c}
    with pytest.raises(ValueError, match=r"heads 2, axes 3"):
        StripeAttention(12, heads=2, axes=3)


def test_channel_attention_does_not_care_where_tokens_are():
    torch.manual_seed(0)
    layer, x = ChannelAttention(12, heads=3), torch.randn(1, 4, 5, 12)
    order = torch.randperm(20)
    torch.testing.assert_close(layer(x.flatten(1, 2)[:, order]), layer(x).flatten(1, 2)[:, order])


def test_continuous_bias_is_a_function_of_the_scaled_position():
    torch.manual_seed(0)
    small, large = ContinuousBias((3, 3), 2), ContinuousBias((5, 5), 2)
    large.load_state_dict(small.state_dict())
    corner = 4 * 9 + 4  # no displacement
    torch.testing.assert_close(small()[2 * 5 + 2], large()[corner])
    torch.testing.assert_close(small()[0], large()[0])  # the largest displacement of either
    again = ContinuousBias((5, 5), 2, pretrained=(3, 3))
    again.load_state_dict(small.state_dict())
    torch.testing.assert_close(again().unflatten(0, (9, 9))[2:7, 2:7].flatten(0, 1), small())
    assert not small.state_dict().keys() & {"coordinates"}


def test_conv_position_sees_neighbours_and_starts_from_the_token():
    layer = ConvPosition(12)
    assert reach(layer, (5, 5), (2, 3)) == {(y, x) for y in (1, 2, 3) for x in (2, 3, 4)}
    nn.init.zeros_(layer.conv.weight)
    nn.init.zeros_(layer.conv.bias)
    x = torch.randn(1, 5, 5, 12, dtype=torch.float64)
    assert torch.equal(layer(x), x)


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="NeighborhoodAttention: dim 10 is not a multiple of heads 3"):
        NeighborhoodAttention(10, heads=3, kernel=(3,))
    with pytest.raises(ValueError, match="border is 'zero', expected 'partial' or 'zeros'"):
        WindowAttention(12, heads=3, window=(3,), border="zero")
    with pytest.raises(ValueError, match=r"x has shape \[1, 4, 12\], expected \(batch, 2 axes, channels\)"):
        WindowAttention(12, heads=3, window=(3, 3), shift=(1, 1), shift_single=False)(torch.zeros(1, 4, 12))
    with pytest.raises(ValueError, match="position_bias is 'tables'"):
        WindowAttention(12, heads=3, window=(3,), position_bias="tables")
    with pytest.raises(ValueError, match="outside is 'zeros'"):
        OverlapAttention(12, heads=3, window=(3,), overlap=1, outside="zeros")
    with pytest.raises(ValueError, match=r"kernel is \(2, 2\), expected .* odd"):
        ConvPosition(12, kernel=2)
    with pytest.raises(ValueError, match=r"expected \(batch, \(4, 4, 12\)\)"):
        AbsolutePosition(12, size=(4, 4))(torch.zeros(1, 4, 5, 12))
