import math

import pytest
import torch
from torch import Tensor

from geovit.core.layers.essa import ESSA
from geovit.core.weights import load_into, load_state, rename
from geovit.core.weights.essa import ESSA_NAMES


def unit(x: Tensor, axis: int) -> Tensor:
    return x / x.square().sum(axis, keepdim=True).sqrt().clamp_min(1e-12)


def by_the_formula(x: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """The authors' formula on (batch, tokens, dim), with their names and the explicit matrix of weights."""
    q, k, v = (x @ weights["lnqkv.weight"].mT + weights["lnqkv.bias"]).chunk(3, -1)
    q, k = ((z - z.mean(-1, keepdim=True)).square() for z in (q, k))
    q, k = (z / (z.sum(-1, keepdim=True) + 1e-7) for z in (q, k))
    mixed = (unit(q, -1) @ unit(k, -2).mT) @ v / math.sqrt(x.shape[1])
    return (v + mixed) @ weights["ln.weight"].mT + weights["ln.bias"]


@pytest.mark.parametrize("size", [(3,), (6, 7), (3, 4, 5)])  # fewer and more tokens than channels
def test_agrees_with_the_formula_on_official_weights(golden_dir, size):
    tensors, _ = load_state(golden_dir / "essaformer" / "a.safetensors")
    prefix = "state.blockup.convup.attn."
    official = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
    dim = official["ln.bias"].numel()
    layer = ESSA(dim)
    load_into(layer, rename(official, ESSA_NAMES))

    torch.manual_seed(0)
    x = torch.randn(2, *size, dim, requires_grad=True)
    wide = x.detach().double().requires_grad_()
    leaves = {key: t.double().requires_grad_() for key, t in official.items()}
    want = by_the_formula(wide.flatten(1, -2), leaves).reshape(x.shape)
    got = layer(x)
    got.square().mean().backward()
    want.square().mean().backward()
    grads = rename({key: t.grad for key, t in leaves.items()}, ESSA_NAMES)
    pairs = [(got, want, 1e-5), (x.grad, wide.grad, 1e-4)]
    pairs += [(parameter.grad, grads[name], 1e-4) for name, parameter in layer.named_parameters()]
    for mine, theirs, tolerance in pairs:
        assert (mine.double() - theirs).abs().max() <= tolerance * theirs.abs().max()


def test_tokens_have_no_order():
    torch.manual_seed(0)
    layer, x, order = ESSA(8).double(), torch.randn(2, 30, 8, dtype=torch.float64), torch.randperm(30)
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order])


def test_backends_agree():
    torch.manual_seed(0)
    eager, reference = ESSA(8, bias=False), ESSA(8, bias=False, backend="reference")
    reference.load_state_dict(eager.state_dict())
    x = torch.randn(2, 5, 6, 8)
    torch.testing.assert_close(eager(x), reference(x))
