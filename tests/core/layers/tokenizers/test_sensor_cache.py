"""Weights of a sensor are made once, and anew whenever they would come out otherwise."""

import copy
import pickle

import pytest
import torch

from geovit.core.layers.tokenizers import HypernetworkEmbed, SpectralRangeEmbed, WavelengthEmbed

MADE = {
    "range": lambda: SpectralRangeEmbed(8, patch=4),
    "wavelength": lambda: WavelengthEmbed(8, patch=4, hidden=4),
    "hypernetwork": lambda: HypernetworkEmbed(8, patch=4, code_dim=8, hidden=8, learned=2),
}
WAVES = torch.tensor([443.0, 560.0, 865.0])
X = torch.randn(2, 3, 8, 8)


@pytest.fixture(params=MADE)
def embed(request):
    torch.manual_seed(0)
    return MADE[request.param]().eval()


@pytest.fixture
def made(embed, monkeypatch):
    """Count how often weights are made."""
    calls = []
    name = "_make" if isinstance(embed, WavelengthEmbed) else "weights"
    make = getattr(embed, name)
    monkeypatch.setattr(embed, name, lambda w: calls.append(1) or make(w))
    return calls


def fresh(embed, x=X, waves=WAVES):
    return copy.deepcopy(embed)(x, waves, 10.0).x.detach()


@torch.no_grad()
def test_weights_of_a_sensor_are_made_once(embed, made):
    first = embed(X, WAVES, 10.0).x
    for _ in range(3):
        assert torch.equal(embed(X, WAVES.clone(), 10.0).x, first)
    assert len(made) == 1
    embed(X, WAVES + 1, 10.0)
    assert len(made) == 2
    embed(X, WAVES, 10.0)
    assert len(made) == 2


def test_training_goes_through_the_weights_each_step(embed, made):
    embed.train()
    for step in (1, 2):
        embed.zero_grad()
        embed(X, WAVES, 10.0).x.square().mean().backward()
        assert len(made) == step
        assert all(float(p.grad.abs().sum()) >= 0 for p in embed.parameters())


def test_gradients_reach_the_weights_in_evaluation_too(embed):
    with torch.no_grad():
        embed(X, WAVES, 10.0)
    embed(X, WAVES, 10.0).x.square().mean().backward()
    assert any(float(p.grad.abs().sum()) > 0 for p in embed.parameters())


@pytest.mark.parametrize(
    "change",
    [
        lambda embed: next(iter(embed.parameters())).mul_(1.5),
        lambda embed: embed.load_state_dict({k: v + 0.1 for k, v in embed.state_dict().items()}),
        lambda embed: embed.load_state_dict({k: v + 0.1 for k, v in embed.state_dict().items()}, assign=True),
        lambda embed: embed.double().float() and [p.add_(0.1) for p in embed.parameters()],
    ],
    ids=["in place", "loaded", "assigned", "moved"],
)
@torch.no_grad()
def test_changed_weights_are_seen(embed, change):
    before = embed(X, WAVES, 10.0).x
    change(embed)
    after = embed(X, WAVES, 10.0).x
    assert not torch.allclose(after, before)
    torch.testing.assert_close(after, fresh(embed))


def test_a_step_of_an_optimizer_is_seen(embed):
    optimizer = torch.optim.AdamW(embed.parameters(), lr=0.1)
    with torch.no_grad():
        before = embed(X, WAVES, 10.0).x
    embed.train()
    embed(X, WAVES, 10.0).x.square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        after = embed.eval()(X, WAVES, 10.0).x
        assert not torch.allclose(after, before)
        torch.testing.assert_close(after, fresh(embed))


def test_other_parameters_in_their_place_are_seen(embed):
    others = {name: p.detach() + 0.1 for name, p in embed.named_parameters()}
    with torch.no_grad():
        own = embed(X, WAVES, 10.0).x
        other = torch.func.functional_call(embed, others, (X, WAVES, 10.0)).x
        assert not torch.allclose(own, other)
        assert torch.equal(embed(X, WAVES, 10.0).x, own)


def test_what_inference_mode_made_is_not_used_for_gradients(embed):
    for p in embed.parameters():
        p.requires_grad_(False)
    with torch.inference_mode():
        embed(X, WAVES, 10.0)
    x = X.clone().requires_grad_()
    embed(x, WAVES, 10.0).x.square().mean().backward()
    assert float(x.grad.abs().sum()) > 0


@torch.no_grad()
def test_copies_and_files_hold_no_cache(embed):
    want = embed(X, WAVES, 10.0).x
    for other in (copy.deepcopy(embed), pickle.loads(pickle.dumps(embed))):
        next(iter(other.parameters())).add_(0.5)
        assert not torch.allclose(other(X, WAVES, 10.0).x, want)
    assert torch.equal(embed(X, WAVES, 10.0).x, want)


@torch.no_grad()
def test_random_bands_without_end_are_not_kept_without_end(embed):
    for shift in range(40):
        embed(X, WAVES + shift, 10.0)
    assert len(embed._cache) <= 32


def test_compiled_it_gives_the_same(embed):
    compiled = torch.compile(embed, backend="eager", fullgraph=True)
    for mode in (False, True):
        embed.train(mode)
        for waves in (WAVES, WAVES + 30):
            with torch.set_grad_enabled(mode):
                torch.testing.assert_close(compiled(X, waves, 10.0).x, embed(X, waves, 10.0).x)
    with torch.no_grad():
        embed.eval()
        compiled(X, WAVES, 10.0)
        next(iter(embed.parameters())).add_(0.5)
        torch.testing.assert_close(compiled(X, WAVES, 10.0).x, fresh(embed))
        with pytest.raises(RuntimeError, match="not in nm"):
            compiled(X, WAVES / 1000, 10.0)
