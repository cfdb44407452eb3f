import pytest
import torch
from torch.nn import functional as F

from geovit.apps.restoration.lmdvit import LMDViT, pruning_loss


def wavered(network, seed=0):
    """Give a fresh network decisions of both kinds."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return network


@torch.no_grad()
@pytest.mark.parametrize(("depths", "window"), [((2, 2), 4), ((2, 2, 2), 4), ((3, 1), 8)])
def test_a_tile_with_its_halo_equals_the_whole(depths, window):
    network = wavered(LMDViT(16, depths, window=window).eval()).double()
    halo, multiple = network.halo, network.multiple
    tile = torch.rand(1, 3, 2 * halo + 2 * multiple, 2 * halo + multiple, dtype=torch.float64)
    around = torch.rand(1, 3, tile.shape[2] + 2 * multiple, tile.shape[3] + 4 * multiple, dtype=torch.float64)
    around[..., multiple:-multiple, 2 * multiple : -2 * multiple] = tile
    middle = network(tile)[..., halo:-halo, halo:-halo]
    whole = network(around)[..., multiple:-multiple, 2 * multiple : -2 * multiple][..., halo:-halo, halo:-halo]
    torch.testing.assert_close(whole, middle, rtol=0, atol=1e-10)


@torch.no_grad()
def test_any_size_and_the_same_image_with_its_decisions():
    network = wavered(LMDViT(16, (2, 2), window=4).eval())
    for size in ((1, 1), (5, 17)):
        x = torch.rand(2, 3, *size)
        y, decisions = network.with_decisions(x)
        assert y.shape == x.shape
        assert torch.equal(network(x), y)
        assert len(decisions) == 6  # two stages down, one up, of two blocks
        shares = [d.choice.chosen.float().mean().item() for d in decisions]
    assert min(shares) < max(shares)


def locally_blurred(count, generator):
    """Noise, one half of which is blurred along the rows: sharp, blurred, mask."""
    sharp = torch.rand(count, 3, 32, 32, generator=generator)
    mask = torch.zeros(count, 32, 32)
    for i, side in enumerate(torch.randint(4, (count,), generator=generator).tolist()):
        view = mask[i] if side < 2 else mask[i].T
        view[16:] = side % 2
        view[:16] = 1 - side % 2
    smeared = F.avg_pool2d(F.pad(sharp, (2, 2, 0, 0), mode="reflect"), (1, 5), stride=1)
    return sharp, torch.where(mask.unsqueeze(1) > 0, smeared, sharp), mask


def test_training_finds_the_blurred_half():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    network = LMDViT(16, (2, 1), window=4).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for _ in range(60):
        sharp, blurred, mask = locally_blurred(4, generator)
        restored, decisions = network.with_decisions(blurred)
        optimizer.zero_grad()
        (F.l1_loss(restored, sharp) + pruning_loss(decisions, mask)).backward()
        optimizer.step()
    sharp, blurred, mask = locally_blurred(16, generator)
    with torch.no_grad():
        decisions = network.eval().with_decisions(blurred)[1]
    for choice, stride in decisions:
        wanted = choice.grid.scaled(stride).means(mask.unsqueeze(-1)).squeeze(-1) > 0
        assert (choice.chosen == wanted).float().mean() > 0.9


def test_filling_up_does_not_count_in_the_loss():
    network = wavered(LMDViT(16, (2,), window=4).eval())
    x = torch.rand(1, 3, 6, 8)
    _, decisions = network.with_decisions(x)
    whole = [(choice._replace(logits=choice.logits.clone()), stride) for choice, stride in decisions]
    whole[1][0].logits[:, 2:] = 100.0  # of the shifted windows, the row that only filling up made
    mask = torch.zeros(1, 6, 8)
    assert torch.equal(pruning_loss(decisions, mask), pruning_loss(whole, mask))


def test_mistakes_are_described():
    with pytest.raises(ValueError, match="expected an even window"):
        LMDViT(16, window=7)
    with pytest.raises(ValueError, match="there is no decision"):
        pruning_loss((), torch.zeros(1, 4, 4))
