import pytest
import torch
from torch.nn import functional as F

from geovit.core.layers import reuse
from geovit.core.layers.mlp import MLP, SwiGLU


def test_swiglu_is_the_published_formula():
    layer, x = SwiGLU(6, 10), torch.randn(2, 3, 6)
    torch.testing.assert_close(layer(x), layer.w3(F.silu(layer.w1(x)) * layer.w2(x)))


@pytest.mark.parametrize("kind", [MLP, SwiGLU])
@pytest.mark.parametrize("bias", [True, False])
def test_every_token_is_treated_alone(kind, bias):
    layer, x = kind(6, 10, bias=bias), torch.randn(2, 4, 6)
    torch.testing.assert_close(layer(x)[:, 2], layer(x[:, 2]))
    assert any(name.endswith("bias") for name, _ in layer.named_parameters()) is bias


@pytest.mark.parametrize("kind", [MLP, SwiGLU])
def test_dropout_acts_in_training_only(kind):
    layer, x = kind(6, 64, dropout=0.5), torch.randn(2, 6)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_mlp_takes_adapters_and_other_activations():
    layer, x = MLP(6, 10), torch.randn(2, 3, 6)
    expected = layer.fc2(F.gelu(F.linear(x, layer.fc1.weight, layer.fc1.bias)))
    torch.testing.assert_close(layer(x), expected)
    layer.fc1 = torch.nn.Sequential(layer.fc1)
    torch.testing.assert_close(layer(x), expected)
    layer.act = torch.nn.ReLU()
    torch.testing.assert_close(layer(x), layer.fc2(F.relu(layer.fc1(x))))


def test_without_gradients_many_tokens_are_mixed_in_parts(monkeypatch):
    monkeypatch.setattr(reuse, "_PART", 1024)
    mlp, x, seen = MLP(8, 16).double(), torch.randn(3, 300, 8, dtype=torch.float64), []
    mlp.fc1.register_forward_hook(lambda module, given, result: seen.append(len(result)))
    with torch.no_grad():
        parts = mlp(x)
    assert seen == [256, 256, 256, 132]
    torch.testing.assert_close(parts, mlp(x))
    assert len(seen) == 5
