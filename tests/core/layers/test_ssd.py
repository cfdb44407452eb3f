import pytest
import torch
from torch import nn
from torch.nn import functional as F

from geovit.core.layers.ssd import VSSD, Mamba2


def randomised(layer: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer.double()


@pytest.mark.parametrize(("kind", "options"), [(Mamba2, {}), (VSSD, {"axes": 1})])
@pytest.mark.parametrize("groups", [1, 3])
def test_backends_agree(kind, options, groups):
    eager, reference = (
        randomised(kind(12, states=4, head_dim=4, groups=groups, backend=backend, **options))
        for backend in ("eager", "reference")
    )
    x = torch.randn(2, 70, 12, dtype=torch.float64)
    torch.testing.assert_close(eager(x), reference(x))


def test_mamba2_does_not_look_ahead():
    layer = randomised(Mamba2(8, states=4, head_dim=4, chunk=8))
    x = torch.randn(1, 20, 8, dtype=torch.float64)
    later = x.clone()
    later[:, 13:] += 1
    assert torch.equal(layer(x)[:, :13], layer(later)[:, :13])
    assert not torch.equal(layer(x)[:, 13], layer(later)[:, 13])


def test_mamba2_walks_through_an_image_row_by_row():
    layer = randomised(Mamba2(8, states=4, head_dim=4))
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x).flatten(1, 2), layer(x.flatten(1, 2)))


def test_mamba2_bounds_its_steps():
    # With all step sizes 0 nothing is written: what is left is the skip of the convolved input.
    layer = randomised(Mamba2(8, states=4, head_dim=4, dt_limit=(0.0, 0.0)))
    x = torch.randn(1, 9, 8, dtype=torch.float64)
    z, xBC, _ = layer.in_proj(x).split([16, 24, 4], dim=-1)
    convolved = F.conv1d(F.pad(xBC.mT, (3, 0)), layer.conv1d.weight, layer.conv1d.bias, groups=24).mT
    u = F.silu(convolved)[..., :16] * layer.D.repeat_interleave(4)
    torch.testing.assert_close(layer(x), layer.out_proj(layer.norm(u * F.silu(z))))


def test_mamba2_can_learn_its_initial_state():
    layer = randomised(Mamba2(8, states=4, head_dim=4, learn_initial_state=True))
    layer(torch.randn(2, 9, 8, dtype=torch.float64)).square().sum().backward()
    assert layer.init_states.grad.abs().sum() > 0
    assert "init_states" not in dict(Mamba2(8, states=4, head_dim=4).named_parameters())


@pytest.mark.parametrize("size", [(7,), (5, 6), (3, 4, 2)])
def test_vssd_turns_with_the_image(size):
    # Nothing in it but the convolution knows directions: with a symmetric kernel, a flipped image gives the flipped result.
    layer = randomised(VSSD(8, axes=len(size), states=4, head_dim=8))
    with torch.no_grad():
        layer.conv.weight.add_(layer.conv.weight.flip(2))
    x = torch.randn(2, *size, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x.flip(1)), layer(x).flip(1))


def test_vssd_weighs_tokens_by_their_step_sizes_times_rates():
    layer = randomised(VSSD(8, states=4, head_dim=4, groups=2, expand=2))
    x = torch.randn(1, 4, 5, 8, dtype=torch.float64)
    z, xBC, dt = (part.flatten(1, 2) for part in layer.in_proj(x).split([16, 32, 4], dim=-1))
    image = xBC.unflatten(1, (4, 5)).movedim(-1, 1)
    xBC = F.silu(F.conv2d(image, layer.conv.weight, layer.conv.bias, padding=1, groups=32)).flatten(2).mT
    weights = F.softplus(dt + layer.dt_bias) * layer.A_log.exp()
    heads = []
    for h in range(4):  # head h belongs to group h modulo 2
        u = xBC[..., 4 * h : 4 * h + 4]
        B, C = (xBC[..., first + 4 * (h % 2) : first + 4 * (h % 2) + 4] for first in (16, 24))
        heads.append(C @ (B.mT @ (weights[..., h, None] * u)) + layer.D[h] * u)
    want = layer.out_proj(layer.norm(torch.cat(heads, -1)) * z)
    torch.testing.assert_close(layer(x).flatten(1, 2), want)


def test_vssd_may_have_negative_weights_and_a_group_for_each_head():
    x = torch.randn(1, 3, 3, 8, dtype=torch.float64)
    layers = [randomised(VSSD(8, states=4, head_dim=4, groups=None, positive=positive)) for positive in (True, False)]
    assert layers[0].groups == 4
    with torch.no_grad():
        for layer in layers:
            layer.D.zero_()
            layer.norm.bias.zero_()
    torch.testing.assert_close(layers[0](x), -layers[1](x))


@pytest.mark.parametrize("kind", [Mamba2, VSSD])
def test_fresh_layers_have_the_published_step_sizes_and_rates(kind):
    layer = kind(8, states=4, head_dim=4)
    steps, rates = F.softplus(layer.dt_bias), layer.A_log.exp()
    assert ((steps > 0.99e-3) & (steps < 1.01e-1)).all()
    assert ((rates >= 1) & (rates <= 16)).all()
    assert torch.equal(layer.D, torch.ones(4))
    assert {name for name, p in layer.named_parameters() if hasattr(p, "_no_weight_decay")} == {"dt_bias", "A_log", "D"}


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Mamba2, {"head_dim": 3}, "16 channels inside .* not a multiple of head_dim 3"),
        (Mamba2, {"head_dim": 4, "groups": 3}, "3 groups do not divide 4 heads"),
        (VSSD, {"head_dim": 3}, "VSSD: the 16 channels inside"),
        (VSSD, {"kernel": 4, "head_dim": 4}, r"kernel is \(4, 4\), expected .* odd"),
        (VSSD, {"axes": 4, "head_dim": 4}, r"kernel is \(3, 3, 3, 3\), expected 1 to 3 sizes"),
    ],
)
def test_impossible_layers_are_named(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(8, **options)
