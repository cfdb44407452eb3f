import pytest
import torch
from torch import nn
from torch.nn import functional as F

from geovit.core.native import native_status
from geovit.core.ops.instance_norm_act import instance_norm_act

needs_native = pytest.mark.skipif(not native_status()[0], reason=native_status()[1])


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_is_torchs_instance_norm_on_the_permuted_view(axes):
    norm = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[axes](6, affine=True)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 6, *(7, 5, 4)[:axes])
    got = instance_norm_act(x.movedim(1, -1), norm.weight, norm.bias, activation="leaky_relu").movedim(-1, 1)
    torch.testing.assert_close(got, F.leaky_relu(norm(x), 0.01), rtol=1e-5, atol=1e-5)


def test_residual_is_added_before_the_activation():
    x, residual = torch.randn(2, 2, 5, 6, 8)
    got = instance_norm_act(x, residual=residual, activation="relu")
    torch.testing.assert_close(got, F.relu(instance_norm_act(x) + residual))
    assert (got >= 0).all()


@needs_native
def test_statistics_survive_a_mean_of_a_thousand_deviations():
    torch.manual_seed(0)
    x = torch.randn(1, 30_000, 5) + torch.tensor([0.0, 1.0, 30.0, 1e3, -1e3])
    x[:, 0] += 100  # the token that the first sums are taken about is no help
    got, want = (instance_norm_act(x.to(t), backend=b) for t, b in ((torch.float32, "native"), (torch.float64, "reference")))
    assert (got - want).abs().max() < 1e-5 * want.abs().max()


def test_plain_form_survives_a_mean_of_forty_deviations():
    torch.manual_seed(0)
    x = 2 + 0.05 * torch.randn(1, 4, 4, 4, 48)
    got, want = (instance_norm_act(x.to(t), backend=b) for t, b in ((torch.float32, "eager"), (torch.float64, "reference")))
    assert (got - want).abs().max() < 1e-5 * want.abs().max()


@needs_native
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "gelu", "silu"])
def test_nan_reaches_its_image_and_channel_only(activation):
    x = torch.randn(2, 9, 20)
    x[0, 3, 4] = torch.nan
    found = instance_norm_act(x, activation=activation, backend="native").isnan()
    assert found[0, :, 4].all()
    assert found.sum() == 9


@needs_native
def test_image_of_one_token_gives_its_bias():
    bias = torch.randn(20)
    got = instance_norm_act(torch.randn(3, 1, 1, 20), torch.randn(20), bias, backend="native")
    torch.testing.assert_close(got, bias.expand(3, 1, 1, 20))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"x": torch.zeros(2, 4)}, r"3 or more axes, got \[2, 4\] torch.float32 on cpu"),
        ({"x": torch.zeros(2, 3, 4, dtype=torch.int64)}, r"got \[2, 3, 4\] torch.int64"),
        ({"x": torch.zeros(2, 0, 4)}, r"no elements, its shape is \[2, 0, 4\]"),
        ({"weight": torch.zeros(3)}, r"weight must be a floating tensor of shape \[4\] on cpu, got \[3\]"),
        ({"bias": torch.zeros(4, device="meta")}, r"bias must .* got \[4\] torch.float32 on meta"),
        (
            {"residual": torch.zeros(2, 3, 4, dtype=torch.float64)},
            r"residual must be like x, \[2, 3, 4\] .* got .* torch.float64",
        ),
        ({"activation": "tanh"}, "activation is 'tanh', allowed are none, relu, leaky_relu, gelu, silu"),
    ],
)
def test_mistakes_are_described(change, told):
    with pytest.raises(ValueError, match=told):
        instance_norm_act(**{"x": torch.zeros(2, 3, 4), **change})
