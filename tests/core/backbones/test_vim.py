import pytest
import torch
from torch import nn
from torch.nn import functional as F

from geovit.core.backbones.vim import Vim
from geovit.core.layers.mamba import Mamba


def small(**options) -> Vim:
    torch.manual_seed(0)
    return Vim(3, 8, **{"depth": 2, "size": (12, 8), "patch": 4, "drop_path": 0.0, **options}).eval()


def image(*size: int) -> torch.Tensor:
    return torch.randn(2, 3, *(size or (12, 8)), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("class_at", "tokens", "places"), [("middle", 7, [3]), ("first", 7, [0]), ("ends", 8, [0, 7]), ("none", 6, [])]
)
def test_class_tokens_stand_in_their_places(class_at, tokens, places):
    model, x = small(class_at=class_at), image()
    seen = {}
    model.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.setdefault("x", inputs[0]))
    y = model.sequence(x)
    assert y.shape == (2, tokens, 8)
    start = seen["x"] - model.position
    for i, place in enumerate(places):
        torch.testing.assert_close(start[:, place], model.class_tokens[i].expand(2, -1))
    others = [t for t in range(tokens) if t not in places]
    torch.testing.assert_close(start[:, others], model.embed(x).flatten(1, 2))
    torch.testing.assert_close(model(x), y[:, others].unflatten(1, (3, 2)))
    torch.testing.assert_close(model.pooled(x), y[:, places or others].mean(1))


def test_tokens_are_normed():
    y = small()(image())
    torch.testing.assert_close(y.square().mean(-1), torch.ones(2, 3, 2), rtol=0, atol=0.05)  # epsilon counts for small tokens
    assert {m.eps for m in small(norm="layer").modules() if isinstance(m, nn.LayerNorm)} == {1e-5}


def test_patches_may_overlap():
    assert small(stride=2)(image()).shape == (2, 5, 3, 8)


def test_any_size_without_positions():
    model = small(size=None)
    assert model.position is None
    assert model(image(20, 5)).shape == (2, 5, 1, 8)
    with pytest.raises(ValueError, match=r"the image has size \(20, 5\), positions are for \(12, 8\)"):
        small()(image(20, 5))


def test_volumes_and_sequences():
    assert small(size=(4, 4, 8), axes=3)(torch.randn(1, 3, 4, 4, 8)).shape == (1, 1, 1, 2, 8)
    assert small(size=(8,), axes=1, mixer=Mamba)(torch.randn(1, 3, 8)).shape == (1, 2, 8)


def test_paired_blocks_read_in_both_directions_and_are_summed():
    model, x = small(paired=True, mixer=Mamba, size=None, class_at="none"), image()
    tokens = model.embed(x).flatten(1, 2)
    backward = model.blocks[1](tokens.flip(1)).flip(1)
    torch.testing.assert_close(model.sequence(x), model.norm(model.blocks[0](tokens) + backward))


def test_residual_sum_stays_in_float32_under_autocast():
    model, seen = small(), []
    for block in model.blocks:
        block.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        model(image())
    assert seen == [(torch.float32, torch.float32)] * 2


def test_starts_as_published():
    torch.manual_seed(0)
    model = Vim(3, 64, depth=4, size=(64, 64))
    assert model.position.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.blocks[0].mixer.out_proj.weight.abs().max().item() == pytest.approx(128**-0.5 / 2, rel=0.01)
    assert model.blocks[0].mixer.average


def test_trains():
    model = small().train()
    head = nn.Linear(8, 2)
    x, target = image(), torch.tensor([0, 1])
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], 0.01)
    losses = []
    for _ in range(15):
        loss = F.cross_entropy(head(model.pooled(x)), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_compiles_as_one_graph():
    model, x = small(depth=1), image()
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"class_at": "last"}, "class_at is 'last', expected one of middle, first, ends, none"),
        ({"paired": True, "depth": 3}, "depth is 3, paired blocks need an even one"),
        ({"size": (12, 2)}, r"size is \(12, 2\), expected 2 sizes of at least a patch of 4"),
        ({"size": (12,)}, r"size is \(12,\), expected 2 sizes"),
    ],
)
def test_impossible_options_are_told(options, told):
    with pytest.raises(ValueError, match=told):
        small(**options)
