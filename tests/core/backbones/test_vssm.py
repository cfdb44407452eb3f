from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from geovit.core.backbones.vssm import vssm
from geovit.core.layers.mamba import BiMamba
from geovit.core.layers.mixers import scan
from geovit.core.layers.mlp import GEGLU


def small(**options):
    torch.manual_seed(0)
    return vssm(3, **{"dims": (8, 16), "depths": (1, 2), **options})


@pytest.mark.parametrize(
    ("options", "fine", "coarse"),
    [
        ({}, (9, 8), (5, 4)),  # overlapping patches round sizes up
        ({"stem": "patches", "downsample": "patches"}, (8, 7), (4, 3)),  # others leave the remainder out
        ({"stem": "patches", "downsample": "merging"}, (8, 7), (4, 4)),
        ({"patch": 8}, (2, 2), (1, 1)),
    ],
)
def test_features_of_each_stage(options, fine, coarse):
    features = small(**options).features(torch.randn(2, 3, 33, 30))
    assert [tuple(f.shape) for f in features] == [(2, *fine, 8), (2, *coarse, 16)]


def test_volumes():
    model = small(axes=3, mixer=partial(scan, state=2, gate="activated"))
    assert model(torch.randn(1, 3, 9, 16, 17)).shape == (1, 2, 2, 3, 16)
    assert model.stages[0][0].mixer.A_log.shape == (6, 8, 2)


def test_defaults_are_those_of_vmamba_t():
    model = vssm(3)
    assert [len(stage) for stage in model.stages] == [2, 2, 8, 2]
    assert model.stages[0][0].mixer.A_log.shape == (4, 96, 1)
    parameters = sum(parameter.numel() for parameter in model.parameters()) + 769 * 1000  # with a classifier for ImageNet
    assert round(parameters / 1e6) == 30  # what the authors' table of models says


def test_linear_layers_start_small_and_other_mixers_as_they_like():
    model = small(dims=(64, 64))
    for linear in (model.stages[0][0].mixer.in_proj, model.stages[1][0].channel_mixer.fc1):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.stages[0][0].channel_mixer.fc1.bias.abs().max() == 0
    other = small(mixer=lambda dim, **_: BiMamba(dim))
    assert other.stages[0][0].mixer.dt_proj.bias.abs().min() > 1


def test_channel_mixers():
    assert small(mlp_ratio=0).stages[0][0].channel_mixer is None
    assert isinstance(small(channel_mixer="geglu").stages[0][0].channel_mixer, GEGLU)


def test_geglu_gates_its_first_half_by_the_second():
    torch.manual_seed(0)
    layer, x = GEGLU(4, 6), torch.randn(2, 4)
    y = layer.fc1(x)
    torch.testing.assert_close(layer(x), layer.fc2(y[:, :6] * F.gelu(y[:, 6:])))


def test_trains():
    model = nn.Sequential(small(), nn.Flatten(1, 2), nn.AdaptiveAvgPool2d((1, None)), nn.Flatten(), nn.Linear(16, 2))
    x = torch.randn(6, 3, 16, 16)
    target = torch.tensor([0, 1, 0, 1, 0, 1])
    x[1::2] = x[1::2].cumsum(3) / 2  # smooth along rows
    optimizer = torch.optim.AdamW(model.parameters(), 0.005)
    losses = []
    for _ in range(15):
        loss = F.cross_entropy(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_compiles_as_one_graph():
    model, x = small(dims=(8,), depths=(1,)).eval(), torch.randn(1, 3, 16, 16)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"channel_mixer": "swish"}, "channel_mixer is 'swish', expected one of mlp, geglu"),
        ({"stem": "conv"}, "stem is 'conv', expected one of patches, overlapping"),
        ({"downsample": "pool"}, "downsample is 'pool', expected one of merging, patches, overlapping"),
        ({"patch": 3}, "patch is 3, an overlapping stem needs an even one"),
    ],
)
def test_impossible_options_are_told(options, told):
    with pytest.raises(ValueError, match=told):
        small(**options)
