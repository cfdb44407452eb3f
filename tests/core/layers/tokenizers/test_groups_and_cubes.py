import pytest
import torch
from torch.nn import functional as F

from geovit.core.layers.tokenizers import CubeEmbed, GroupEmbed

GROUPS = ((493.0, 560.0, 665.0), (705.0, 842.0), (-1.0,))
ALL = torch.tensor([493.0, 560.0, 665.0, 705.0, 842.0, -1.0])


def groups(**options):
    return GroupEmbed(8, patch=4, groups=GROUPS, **options)


def test_each_group_has_its_own_projection():
    embed = groups()
    x = torch.randn(2, 6, 8, 12)
    tokens = embed(x, ALL, 10.0)
    assert tokens.x.shape == (2, 3, 2, 3, 8)
    assert tokens.present is None
    assert tokens.wavelengths.tolist() == pytest.approx([572.6667, 773.5, -1])
    for index, bands in enumerate(([0, 1, 2], [3, 4], [5])):
        proj = embed.embeds[index].proj
        expected = F.conv2d(x[:, bands], proj.weight, proj.bias, stride=4).movedim(1, -1)
        torch.testing.assert_close(tokens.x[:, index], expected)


def test_bands_find_their_group_in_any_order_and_near_their_wavelength():
    embed = groups()
    x = torch.randn(2, 6, 8, 8)
    order = torch.tensor([4, 2, 5, 0, 3, 1])
    near = ALL + torch.tensor([-1.0, 2, 3, -4, -9, 0])
    torch.testing.assert_close(embed(x[:, order], near[order], 10.0).x, embed(x, ALL, 10.0).x)


def test_a_missing_band_is_one_that_is_masked():
    embed = groups()
    x = torch.randn(2, 6, 8, 8)
    mask = torch.tensor([[True, False, True, False, False, True]] * 2)
    spoilt = x.where(mask[..., None, None], torch.nan)
    left = torch.tensor([0, 2, 5])
    masked, without = embed(spoilt, ALL, 10.0, mask), embed(x[:, left], ALL[left], 10.0)
    for tokens in (masked, without):
        assert tokens.present.tolist() == [[True, False, True]] * 2
    torch.testing.assert_close(masked.x, without.x)


def test_a_band_of_no_group_is_an_error_or_dropped():
    x = torch.randn(1, 7, 4, 4)
    with pytest.raises(ValueError, match=r"band 945 nm is none of those that it was made for \(VV, 493, 560"):
        groups()(x, torch.cat([ALL, torch.tensor([945.0])]), 10.0)
    with pytest.raises(ValueError, match="band VH is none"):
        groups()(x, torch.cat([ALL, torch.tensor([-2.0])]), 10.0)
    with pytest.raises(ValueError, match="band 496 nm and another one are both nearest to 493"):
        groups()(x, torch.cat([ALL, torch.tensor([496.0])]), 10.0)
    tokens = groups(others="drop")(x, torch.cat([ALL, torch.tensor([945.0])]), 10.0)
    assert tokens.x.shape[1] == 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [([], "at least one"), ([[]], "each with bands"), ([[493.0, 493.0]], "not all different"), ([[0.49]], "490 nm")],
)
def test_groups_are_checked(wrong, message):
    with pytest.raises(ValueError, match=message):
        GroupEmbed(8, patch=4, groups=wrong)


NINE = torch.linspace(450, 2250, 9)


def test_cubes_are_a_3d_convolution_over_bands_by_wavelength():
    embed = CubeEmbed(8, patch=4)
    x = torch.randn(2, 9, 8, 12)
    tokens = embed(x, NINE, 10.0)
    assert tokens.x.shape == (2, 3, 2, 3, 8)
    assert tokens.wavelengths.tolist() == pytest.approx([NINE[i].item() for i in (1, 4, 7)])
    torch.testing.assert_close(tokens.x, embed.proj(x[:, None]).movedim(1, -1))
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 9, dtype=torch.bool)
    torch.testing.assert_close(embed(x[:, order], NINE[order], 10.0, mask).x, tokens.x)


def test_a_cube_without_bands_is_marked_and_the_others_stay():
    embed = CubeEmbed(8, patch=4)
    x = torch.randn(2, 9, 8, 8)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[0, 3:6] = False
    tokens = embed(x.where(mask[..., None, None], torch.nan), NINE, 10.0, mask)
    assert tokens.present.tolist() == [[True, False, True], [True] * 3]
    left = torch.tensor([0, 1, 2, 6, 7, 8])
    torch.testing.assert_close(tokens.x[:1, [0, 2]], embed(x[:1, left], NINE[left], 10.0).x)


def test_what_makes_no_cubes_is_an_error_of_one_line():
    embed = CubeEmbed(8, patch=4)
    with pytest.raises(ValueError, match="8 bands are no multiple of the 3 of a cube"):
        embed(torch.zeros(1, 8, 4, 4), NINE[:8], 10.0)
    with pytest.raises(ValueError, match="radar has codes instead"):
        embed(torch.zeros(1, 3, 4, 4), torch.tensor([490.0, 560.0, -1.0]), 10.0)
