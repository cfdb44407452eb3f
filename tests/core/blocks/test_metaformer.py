import pytest
import torch
from torch import nn

from geovit.core.blocks.metaformer import MetaFormerBlock
from geovit.core.layers.mlp import MLP


def block(**options) -> MetaFormerBlock:
    torch.manual_seed(0)
    return MetaFormerBlock(8, nn.Linear(8, 8), channel_mixer=MLP(8, 16), **options)


def test_two_residual_branches_with_norms_before_them():
    layer, x = block(), torch.randn(2, 3, 8)
    y = x + layer.mixer(layer.norm1(x))
    torch.testing.assert_close(layer(x), y + layer.channel_mixer(layer.norm2(y)))


def test_norms_after_the_branches():
    layer, x = block(norm_position="after"), torch.randn(2, 3, 8)
    y = x + layer.norm1(layer.mixer(x))
    torch.testing.assert_close(layer(x), y + layer.norm2(layer.channel_mixer(y)))


def test_positions_come_before_the_branches():
    layer = block(positions=(nn.Linear(8, 8), nn.Linear(8, 8)))
    x = torch.randn(2, 3, 8)
    y = layer.position1(x)
    y = layer.position2(y + layer.mixer(layer.norm1(y)))
    torch.testing.assert_close(layer(x), y + layer.channel_mixer(layer.norm2(y)))


def test_without_a_channel_mixer_there_is_one_branch():
    layer, x = MetaFormerBlock(8, nn.Linear(8, 8), channel_mixer=None, layer_scale=0.5), torch.randn(2, 3, 8)
    torch.testing.assert_close(layer(x), x + 0.5 * layer.mixer(layer.norm1(x)))
    assert not any(name.startswith(("norm2", "scale2")) for name, _ in layer.named_parameters())


def test_unknown_norm_position_is_named():
    with pytest.raises(ValueError, match="norm_position is 'post', expected 'before' or 'after'"):
        block(norm_position="post")


def test_layer_scale_of_zero_leaves_the_identity():
    x = torch.randn(2, 3, 8)
    assert torch.equal(block(layer_scale=0.0)(x), x)
    assert not torch.equal(block(layer_scale=0.1)(x), x)


def test_drop_path_skips_branches_in_training_only():
    layer, x = block(drop_path=0.99), torch.randn(50, 3, 8)
    assert torch.equal(layer(x), x) or (layer(x) == x).flatten(1).all(1).sum() > 30
    torch.testing.assert_close(layer.eval()(x), block().eval()(x))
