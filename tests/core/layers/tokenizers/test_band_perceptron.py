import pytest
import torch

from geovit.core.layers.tokenizers.band_perceptron import BandPerceptronEmbed


def test_each_band_is_treated_alone_by_the_perceptron_of_its_kind():
    embed, x = BandPerceptronEmbed(8, patch=4).double(), torch.randn(2, 3, 8, 12, dtype=torch.float64)
    bands = torch.tensor([842.0, -2.0, 443.0])
    tokens = embed(x, bands, 10.0)
    assert tokens.x.shape == (2, 3, 2, 3, 8)
    assert tokens.pitch.tolist() == [40.0, 40.0]
    for band, layers in enumerate((embed.optical, embed.radar, embed.optical)):
        patches = x[:, band].unfold(1, 4, 4).unfold(2, 4, 4).flatten(3)
        torch.testing.assert_close(tokens.x[:, band], layers["fc2"](layers["fc1"](patches).relu()))
        alone = embed(x[:, band : band + 1], bands[band : band + 1], 10.0)
        torch.testing.assert_close(alone.x[:, 0], tokens.x[:, band])


def test_values_of_a_missing_band_are_not_looked_at():
    embed, x = BandPerceptronEmbed(8, patch=4), torch.randn(1, 2, 4, 4)
    there = torch.tensor([[True, False]])
    x[:, 1] = torch.nan
    tokens = embed(x, torch.tensor([443.0, 560.0]), 10.0, there)
    assert tokens.x.isfinite().all()
    assert tokens.present.equal(there)


def test_sizes_that_do_not_fit_are_told():
    with pytest.raises(ValueError, match=r"size \(6, 8\) is not a multiple of the patch 4"):
        BandPerceptronEmbed(8, patch=4)(torch.zeros(1, 1, 6, 8), torch.tensor([443.0]), 10.0)
