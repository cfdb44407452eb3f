import time

import pytest
import torch

from geovit.core.blocks.metaformer import mlp_block
from geovit.core.layers.attention import WindowAttention
from geovit.core.layers.window_select import SelectedWindows, WindowGrid, on_all_windows, on_windows


def block(axes=2, dim=16, shift=0, window=4):
    attention = WindowAttention(dim, heads=2, window=(window,) * axes, shift=(shift,) * axes)
    return mlp_block(dim, attention, axes=axes).eval()


@torch.no_grad()
@pytest.mark.parametrize("shift", [0, 1, 2])
@pytest.mark.parametrize("size", [(11,), (8, 12), (9, 13), (3, 5), (1, 1), (5, 6, 9)])
def test_chosen_windows_are_those_of_the_dense_block_and_others_pass(size, shift):
    torch.manual_seed(0)
    axes = len(size)
    plain, dense = block(axes), block(axes, shift=shift)
    dense.load_state_dict(plain.state_dict())
    grid = WindowGrid((4,) * axes, (shift,) * axes)
    x = torch.randn(2, *size, 16)
    want, every = dense(x), torch.ones(2, *grid.counts(size), dtype=torch.bool)
    torch.testing.assert_close(on_windows(plain, x, every, grid), want, rtol=0, atol=1e-6)
    torch.testing.assert_close(on_all_windows(plain, x, grid), want, rtol=0, atol=1e-6)
    some = torch.rand(every.shape) > 0.5
    expected = torch.where(grid.spread(some, size).unsqueeze(-1), want, x)
    torch.testing.assert_close(on_windows(plain, x, some, grid), expected, rtol=0, atol=1e-6)
    assert torch.equal(on_windows(plain, x, ~every, grid), x)


@pytest.mark.parametrize("shift", [0, 3])
def test_means_are_over_the_tokens_that_a_window_holds(shift):
    torch.manual_seed(0)
    grid = WindowGrid((4, 5), (shift, shift))
    x = torch.randn(2, 9, 13, 3)
    means = grid.means(x)
    assert means.shape == (2, *grid.counts((9, 13)), 3)
    for kind in grid.kinds((9, 13)):
        part = x[:, kind.tokens[0], kind.tokens[1]][:, : kind.size[0], : kind.size[1]]
        first = means[:, kind.windows[0].start, kind.windows[1].start]
        torch.testing.assert_close(first, part.mean((1, 2)), rtol=0, atol=1e-6)


def test_the_block_sees_chosen_windows_only_and_takes_less_time_for_it():
    torch.manual_seed(0)
    layer, grid = block(dim=64, window=8), WindowGrid((8, 8), (4, 4))
    x = torch.randn(1, 128, 128, 64)
    order = torch.rand(1, *grid.counts((128, 128))).flatten().argsort()
    seen = []
    layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].numel() // 64))
    times = {}
    with torch.no_grad():
        for _ in range(5):
            for quarters in (1, 2, 4):
                chosen = (order < len(order) * quarters / 4).view(1, *grid.counts((128, 128)))
                seen.clear()
                start = time.perf_counter()
                on_windows(layer, x, chosen, grid)
                times[quarters] = min(time.perf_counter() - start, times.get(quarters, 1e9))
                assert sum(seen) == grid.spread(chosen, (128, 128)).sum()
    assert times[1] < 0.6 * times[4], times
    assert times[2] < 0.85 * times[4], times


@pytest.mark.parametrize("shift", [0, 2])
def test_evaluation_does_what_training_did_and_gradients_reach_predictor_and_block(shift):
    torch.manual_seed(0)
    layer = SelectedWindows(16, block(), WindowGrid((4, 4), (shift, shift)))
    x = torch.randn(2, 8, 12, 16, requires_grad=True)
    y, choice = layer.train()(x)
    assert 0 < choice.chosen.sum() < choice.chosen.numel()
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in layer.parameters())
    again, _ = layer.eval()(x, choice.chosen)
    torch.testing.assert_close(again, y, rtol=0, atol=1e-5)


def test_the_loss_alone_raises_confidence_where_the_block_helps():
    torch.manual_seed(0)
    layer = SelectedWindows(16, torch.nn.Linear(16, 16, bias=False).requires_grad_(False), WindowGrid((4, 4), (0, 0))).train()
    layer.block.weight.zero_()  # what it makes, zeros, is right in the left half only
    strength = torch.tensor([3.0] * 4 + [1.0] * 4)[:, None]
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    for _ in range(80):
        x = torch.randn(8, 4, 8, 16) * strength
        error = (layer(x)[0] - x * (strength == 1)) / strength
        optimizer.zero_grad()
        error.square().mean().backward()
        optimizer.step()
    chosen = layer.eval()(x)[1].chosen
    assert chosen[:, 0, 0].all()
    assert not chosen[:, 0, 1].any()


def test_mistakes_are_described():
    with pytest.raises(ValueError, match="expected 0 <= shift < size"):
        WindowGrid((4, 4), (4, 0))
    with pytest.raises(ValueError, match=r"expected \[1, 3, 3\]"):
        on_windows(lambda x: x, torch.zeros(1, 8, 8, 2), torch.ones(1, 2, 2, dtype=torch.bool), WindowGrid((4, 4), (2, 2)))
    with pytest.raises(ValueError, match="1 axes, the windows have 2"):
        WindowGrid((4, 4), (0, 0)).counts((8,))
    with pytest.raises(ValueError, match="temperature > 0"):
        SelectedWindows(16, torch.nn.Identity(), WindowGrid((4,), (0,)), temperature=0)
