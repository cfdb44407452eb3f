"""Decoders and heads for any bands."""

import pytest
import torch

from geovit.apps.foundation.pretraining.decoder import Decoder, RangeHead, WavelengthHead, predict
from geovit.core.backbones.token_encoder import Encoded
from geovit.core.layers.metre_position import MetrePosition
from geovit.core.layers.tokenizers import SpectralRangeEmbed, Tokens


def decoder(**options) -> Decoder:
    return Decoder(12, 8, depth=1, heads=2, position=MetrePosition(8), **options).eval()


def tokens(pitch: float = 80.0) -> Tokens:
    return Tokens(torch.zeros(2, 1, 3, 4, 12), None, torch.full((2,), pitch))


def test_what_stands_where_tokens_are_hidden_makes_no_difference():
    hidden = torch.rand(2, 1, 3, 4) < 0.5
    x, prefix = torch.randn(2, 1, 3, 4, 12), torch.randn(2, 1, 12)
    one = decoder()
    made = [one(Encoded(x.masked_fill(hidden[..., None], v), prefix), hidden, tokens()).tokens for v in (0.0, 1e9)]
    assert torch.equal(*made)
    assert made[0].shape == (2, 1, 3, 4, 8)


def test_positions_are_metres():
    hidden = torch.ones(2, 1, 3, 4, dtype=torch.bool)
    one, encoded = decoder(), Encoded(torch.zeros(2, 1, 3, 4, 12), torch.zeros(2, 1, 12))
    near, far = (one(encoded, hidden, tokens(pitch)).tokens for pitch in (80.0, 160.0))
    assert not torch.allclose(near, far)


@pytest.mark.parametrize(("prefix", "seen"), [("encoded", True), ("placed", True), ("own", False)])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_prefix_is_the_encoder_s_or_its_own(prefix, seen, count):
    one = decoder(prefix=prefix)
    hidden, x = torch.zeros(2, 1, 3, 4, dtype=torch.bool), torch.randn(2, 1, 3, 4, 12)
    made = [one(Encoded(x, torch.full((2, count, 12), v)), hidden, tokens()) for v in (0.0, 5.0)]
    assert made[0].prefix.shape[1] == (count if seen else 1)
    assert torch.equal(made[0].tokens, made[1].tokens) is not (seen and count > 0)
    with pytest.raises(ValueError, match="allowed are 'encoded', 'placed', 'own'"):
        decoder(prefix="other")


@pytest.mark.parametrize("count", [1, 5, 90])
def test_pixels_of_a_band_follow_from_its_wavelength_alone(count):
    head, x = WavelengthHead(8, patch=3), torch.randn(2, 4, 5, 8)
    wavelengths = torch.cat([torch.tensor([-2.0]), torch.linspace(400, 2400, count)])
    image = head(x, wavelengths)
    assert image.shape == (2, count + 1, 12, 15)
    order = torch.randperm(count + 1)[:3]
    torch.testing.assert_close(head(x, wavelengths[order]), image[:, order])


def test_a_head_of_ranges_mixes_as_its_tokeniser():
    embed = SpectralRangeEmbed(8, patch=4)
    wavelengths = torch.tensor([490.0, -1.0, 1000.0])  # the last one lies in no range
    routes = embed.routes(wavelengths)
    head, x = RangeHead(8, patch=4, ranges=routes.shape[1]), torch.randn(2, 3, 3, 8)
    each = torch.stack([predict(x, h.weight[None], h.bias[None])[:, 0] for h in head.heads], dim=1)
    torch.testing.assert_close(head(x, routes), torch.einsum("brhw,cr->bchw", each, routes.float()))


def test_pixels_lie_where_their_token_does():
    weight, bias = torch.zeros(1, 4, 2), torch.arange(4.0)[None]
    weight[0, :, 0] = 1
    x = torch.zeros(1, 2, 3, 2)
    x[0, 1, 2, 0] = 10
    image = predict(x, weight, bias)[0, 0]
    assert image[2:, 4:].tolist() == [[10, 11], [12, 13]]
    assert image[:2, :2].tolist() == [[0, 1], [2, 3]]
