import pytest
import torch
from torch.nn import functional as F

from geovit.core.layers.tokenizers import ChannelEmbed, sample_channels

WAVES = torch.tensor([490.0, 560.0, 842.0, -1.0])


def test_all_bands_share_a_projection_and_have_a_vector_each():
    embed = ChannelEmbed(8, patch=4, channels=WAVES.tolist())
    x = torch.randn(2, 4, 8, 12)
    tokens = embed(x, WAVES, 10.0)
    kernel = embed.proj.weight.reshape(8, 1, 4, 4)
    for band in range(4):
        expected = F.conv2d(x[:, band, None], kernel, embed.proj.bias, stride=4).movedim(1, -1) + embed.table[band]
        torch.testing.assert_close(tokens.x[:, band], expected)
    assert torch.equal(tokens.wavelengths, WAVES)


def test_a_known_band_is_found_near_its_wavelength_and_another_is_an_error():
    embed = ChannelEmbed(8, patch=4, channels=WAVES.tolist())
    x = torch.randn(2, 2, 4, 4)
    torch.testing.assert_close(embed(x, torch.tensor([835.0, 493.0]), 10.0).x, embed(x, torch.tensor([842.0, 490.0]), 10.0).x)
    with pytest.raises(ValueError, match=r"ChannelEmbed: band 665 nm is none of those .* \(490, 560, 842, VV; within 20 nm\)"):
        embed(x, torch.tensor([490.0, 665.0]), 10.0)
    assert ChannelEmbed(8, patch=4)(x, torch.tensor([490.0, 665.0]), 10.0).x.shape == (2, 2, 1, 1, 8)


def test_training_sees_a_subset_and_evaluation_all():
    embed = ChannelEmbed(8, patch=4, sample=True)
    x = torch.randn(2, 4, 4, 4)
    mask = torch.tensor([[True, False, True, True], [True] * 4])
    whole = embed.eval()(x, WAVES, 10.0, mask)
    assert whole.x.shape[1] == 4
    seen = set()
    torch.manual_seed(0)
    for _ in range(40):
        tokens = embed.train()(x, WAVES, 10.0, mask)
        chosen = [WAVES.tolist().index(w) for w in tokens.wavelengths.tolist()]
        torch.testing.assert_close(tokens.x, whole.x[:, chosen])
        assert torch.equal(tokens.present, mask[:, chosen])
        seen.add(tuple(chosen))
    assert len(seen) > 8
    torch.manual_seed(3)
    one = embed(x, WAVES, 10.0).wavelengths
    torch.manual_seed(3)
    assert torch.equal(embed(x, WAVES, 10.0).wavelengths, one)


def test_each_number_of_bands_is_as_likely_and_each_band_too():
    generator = torch.Generator().manual_seed(0)
    draws = [sample_channels(6, generator) for _ in range(3000)]
    assert all(d.tolist() == sorted(set(d.tolist())) for d in draws)
    counts = torch.bincount(torch.tensor([len(d) for d in draws]), minlength=7)[1:]
    assert int(counts.min()) > 400  # of 500 expected, five deviations
    bands = torch.bincount(torch.cat(draws), minlength=6)
    assert float(bands.float().std() / bands.float().mean()) < 0.05
    again = torch.Generator().manual_seed(0)
    assert all(torch.equal(sample_channels(6, again), d) for d in draws[:20])


def test_no_band_is_an_error():
    with pytest.raises(ValueError, match="bands is 0, expected at least 1"):
        sample_channels(0)
