import torch

from geovit.core.layers.channel_attention import SqueezeExcite


def test_one_gate_for_each_channel_from_the_means():
    layer = SqueezeExcite(32, reduction=8)
    x = torch.randn(2, 32, 3, 4, 5)
    gate = layer(x) / x
    torch.testing.assert_close(gate, gate[:, :, :1, :1, :1].expand_as(gate))
    assert ((gate > 0) & (gate < 1)).all()
    torch.testing.assert_close(layer(x.flip(2)).flip(2), layer(x))
