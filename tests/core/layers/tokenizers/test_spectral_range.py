import pytest
import torch
from torch.nn import functional as F

from geovit.core.layers.tokenizers import RADAR, SMARTIES_RANGES, SpectralRange, SpectralRangeEmbed

S2 = [443.0, 492.4, 559.8, 664.6, 704.1, 740.5, 782.8, 832.8, 864.7, 945.1, 1613.7, 2202.4]
NAMES = [r.name for r in SMARTIES_RANGES]


def per_band(embed, x, wavelengths, mask):
    """The definition: each band projected alone, the mean over those that are there."""
    patch = embed.patch
    patches = x.unfold(2, patch, patch).unfold(3, patch, patch).flatten(-2)
    routes = embed.routes(wavelengths)
    total = torch.zeros(len(x), *patches.shape[2:4], embed.dim, dtype=x.dtype)
    for b in range(x.shape[1]):
        for i, share in enumerate(routes[b].tolist()):
            if share:
                own = F.linear(patches[:, b], embed.embeds[i].weight, embed.embeds[i].bias)
                total += share * torch.where(mask[:, b, None, None, None], own, 0.0)
    return embed.scale * total / mask.sum(1)[:, None, None, None]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("wavelengths", [S2, [RADAR["VV"], RADAR["VH"]], [10_900.0, 482.0, 1373.0, 300.0], [*S2[::-1], -1.0]])
@pytest.mark.parametrize("masked", [False, True])
def test_one_convolution_is_the_projection_of_each_band(dtype, tolerance, wavelengths, masked):
    embed = SpectralRangeEmbed(8, patch=4).to(dtype)
    for part in embed.embeds:
        torch.nn.init.normal_(part.bias)
    bands = len(wavelengths)
    x = torch.randn(3, bands, 8, 12, dtype=dtype)
    wavelengths = torch.tensor(wavelengths)
    mask = torch.ones(3, bands, dtype=torch.bool)
    if masked:
        mask[0, 0] = mask[1, 1:] = False
    for mode in (True, False):
        embed.train(mode)
        with torch.set_grad_enabled(mode):
            for _ in range(2):  # the second time out of the cache, in evaluation
                tokens = embed(x, wavelengths, 10.0, mask if masked else None)
                torch.testing.assert_close(
                    tokens.x[:, 0], per_band(embed, x, wavelengths, mask), rtol=tolerance, atol=10 * tolerance
                )
    assert tokens.x.shape == (3, 1, 2, 3, 8)
    assert tokens.pitch.tolist() == [40.0] * 3


@pytest.mark.parametrize(
    ("wavelength", "name"),
    [
        (443.0, "aerosol"),
        (492.4, "blue"),
        (664.6, "red"),
        (650.0, "red, aerial"),
        (704.1, "red edge 1"),
        (832.8, "near infrared, wide"),
        (864.7, "near infrared, narrow"),
        (2202.4, "short-wave infrared 2"),
        (-1.0, "C band, VV"),
        (-2.0, "C band, VH"),
    ],
)
def test_bands_go_to_their_range(wavelength, name):
    embed = SpectralRangeEmbed(4, patch=2)
    assert len(embed.embeds) == 17
    routes = embed.routes(torch.tensor([wavelength]))
    assert routes[0].nonzero().flatten().tolist() == [NAMES.index(name)]
    assert float(routes.sum()) == pytest.approx(1)


def test_mixtures_weigh_the_nearer_more_and_the_published_ones_the_farther():
    ours, published = (SpectralRangeEmbed(4, patch=2, farther_weighs_more=slip) for slip in (False, True))
    near, far = 482.0 - 442.5, 492.5 - 482.0
    blue = torch.tensor([482.0])
    assert ours.routes(blue)[0, :2].tolist() == pytest.approx([far / (near + far), near / (near + far)])
    assert published.routes(blue)[0, :2].tolist() == pytest.approx([near / (near + far), far / (near + far)])
    thermal = torch.tensor([10_900.0])
    assert float(ours.routes(thermal)[0, 14]) > 0.999
    assert float(published.routes(thermal)[0, 15]) > 0.999


def test_a_band_between_ranges_mixes_both_neighbours_and_beyond_them_takes_the_last():
    embed = SpectralRangeEmbed(4, patch=2)
    between = embed.routes(torch.tensor([1373.0]))[0]
    assert between.nonzero().flatten().tolist() == [12, 13]
    off = [1373 - 943.5, 1610 - 1373]
    assert between[[12, 13]].tolist() == pytest.approx([off[1] / sum(off), off[0] / sum(off)])
    assert embed.routes(torch.tensor([300.0, 15_000.0])).nonzero()[:, 1].tolist() == [0, 14]


def test_what_cannot_be_routed_is_an_error_of_one_line():
    embed = SpectralRangeEmbed(4, patch=2)
    x = torch.zeros(1, 1, 4, 4)
    with pytest.raises(ValueError, match="polarisation HH has no range; those of radar are VV, VH"):
        embed(x, torch.tensor([RADAR["HH"]]), 10.0)
    with pytest.raises(ValueError, match="would be 490 nm"):
        embed(x, torch.tensor([0.49]), 10.0)
    with pytest.raises(ValueError, match="one for each of 1 bands"):
        embed(x, torch.tensor([490.0, 500.0]), 10.0)
    with pytest.raises(ValueError, match="not a multiple of the patch 2"):
        embed(x[..., :3], torch.tensor([490.0]), 10.0)
    with pytest.raises(ValueError, match=r"range b mixes \[1\], allowed are ranges with a projection: \[0\]"):
        SpectralRangeEmbed(4, patch=2, ranges=[SpectralRange("a", 400, 500), SpectralRange("b", 500, 600, mixes=(1,))])
    only_radar = SpectralRangeEmbed(4, patch=2, ranges=[SpectralRange("a", 5.5e7, 5.6e7, "VV")])
    with pytest.raises(ValueError, match="no range of optical bands"):
        only_radar(x, torch.tensor([490.0]), 10.0)
