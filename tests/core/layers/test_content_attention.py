"""Layers whose kernels or neighbours depend on the content: against loops over positions."""

from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from geovit.core.layers.cluster_attention import ClusterAttention
from geovit.core.layers.dynamic_conv import DynamicConv
from geovit.core.layers.patch_attention import PatchAttention
from geovit.core.layers.transposed_attention import TransposedAttention


@torch.no_grad()
def test_dynamic_convolution_has_a_kernel_for_each_position_and_group():
    torch.manual_seed(0)
    layer = DynamicConv(8, kernel=3, group=4)
    x = torch.randn(2, 4, 5, 8)
    value = layer.value(x)
    kernels = layer.expand(layer.context(layer.reduce(value))).unflatten(-1, (2, 3, 3))
    around = F.pad(value, (0, 0, 1, 1, 1, 1))
    want = torch.empty_like(value)
    for i in range(4):
        for j in range(5):
            near = around[:, i : i + 3, j : j + 3].unflatten(-1, (2, 4))
            want[:, i, j] = torch.einsum("byxgd,bgyx->bgd", near, kernels[:, i, j]).flatten(1)
    torch.testing.assert_close(layer(x), layer.proj(want), rtol=0, atol=1e-5)


@torch.no_grad()
def test_clusters_meet_wherever_they_are():
    torch.manual_seed(0)
    layer = ClusterAttention(8, key_dim=6, heads=2, centres=2, group=6, stable=True).eval()
    layer.means.copy_(torch.eye(8)[:2])
    layer.known.fill_(True)
    kind = torch.tensor([0, 1, 0, 1, 0, 1, 1, 0, 0, 1, 1, 0])
    x = (5 * torch.eye(8)[kind] + 0.1 * torch.randn(12, 8)).view(1, 3, 4, 8)
    y = layer(x)
    changed = x.clone()
    changed[0, 0, 1] += 0.5  # of the second cluster, which lies behind the first: that one sees it
    assert (layer(changed) - y).abs().flatten(0, 2).amax(-1).gt(1e-6).all()
    changed = x.clone()
    changed[0, 0, 0] += 0.5  # of the first, which the second does not see
    assert torch.equal((layer(changed) - y).abs().flatten(0, 2).amax(-1).gt(1e-6), kind == 0)


def test_training_stores_centres_and_evaluation_uses_them():
    torch.manual_seed(0)
    layer = ClusterAttention(8, key_dim=6, heads=2, centres=3, group=4).train()
    x = torch.randn(2, 4, 5, 8)
    layer(x).sum().backward()
    assert layer.known
    torch.testing.assert_close(layer.means.norm(dim=-1), torch.ones(3), rtol=0, atol=1e-5)
    first = layer.means.clone()
    layer(torch.randn(2, 4, 5, 8))
    assert 0 < (layer.means - first).abs().max() < 0.01
    stored = layer.means.clone()
    layer.eval()(x)
    assert torch.equal(layer.means, stored)


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (6, 6), (5, 9), (10, 15), (7, 8)])
def test_patches_overlap_and_strips_of_two_are_halved(size):
    torch.manual_seed(0)
    layer = PatchAttention(8, key_dim=6, heads=2, patch=6)
    x = torch.randn(2, *size, 8)
    starts = [sorted({min(i, max(n - 6, 0)) for i in range(0, max(n - 2, 1), 4)}) for n in size]
    total, factor = torch.zeros_like(x), torch.ones(size)
    whole = PatchAttention(8, key_dim=6, heads=2, patch=64)
    whole.load_state_dict(layer.state_dict())
    for top in starts[0]:
        for left in starts[1]:
            total[:, top : top + 6, left : left + 6] += whole(x[:, top : top + 6, left : left + 6])
    for before, start in pairwise(starts[0]):
        factor[start : before + 6] /= 2
    for before, start in pairwise(starts[1]):
        factor[:, start : before + 6] /= 2
    torch.testing.assert_close(layer(x), total * factor.unsqueeze(-1), rtol=0, atol=1e-5)


@torch.no_grad()
def test_tiles_of_channel_attention_are_averaged_in_evaluation_only():
    torch.manual_seed(0)
    layer = TransposedAttention(8, heads=2, activation="relu", tile=6)
    whole = TransposedAttention(8, heads=2, activation="relu")
    whole.load_state_dict(layer.state_dict())
    x = torch.randn(2, 6, 9, 8)
    torch.testing.assert_close(layer.train()(x), whole(x), rtol=0, atol=1e-5)
    y = layer.eval()(x)
    assert (y - whole(x)).abs().max() > 1e-3
    changed = x.clone()
    changed[:, :, 8] += 1  # its convolution reaches to column 7; the second tile starts at column 3
    assert torch.equal((layer(changed) - y).abs().amax((0, 1, 3)) > 1e-6, torch.arange(9) >= 3)


def test_mistakes_are_described():
    with pytest.raises(ValueError, match="expected an odd kernel"):
        DynamicConv(8, kernel=4, group=4)
    with pytest.raises(ValueError, match="not multiples of heads 3"):
        ClusterAttention(9, key_dim=8, heads=3, centres=2, group=4)
    with pytest.raises(ValueError, match="a patch over 2"):
        PatchAttention(8, key_dim=8, heads=2, patch=2)
    with pytest.raises(ValueError, match="allowed are softmax, relu"):
        TransposedAttention(8, heads=2, activation="tanh")
