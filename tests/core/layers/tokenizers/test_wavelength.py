import pytest
import torch

from geovit.core.layers.tokenizers import RADAR, WavelengthEmbed
from geovit.core.layers.tokenizers.wavelength import FEATURES, wavelength_features

SENSORS = {
    "one band": torch.tensor([842.0]),
    "radar": torch.tensor([-1.0, -2.0]),
    "Sentinel-2": torch.tensor([443.0, 493, 560, 665, 704, 741, 783, 833, 865, 945, 1614, 2202]),
    "both": torch.tensor([443.0, 493, 560, 665, 704, 741, 783, 833, 865, 945, 1614, 2202, -1, -2]),
    "EnMAP": torch.linspace(420, 2450, 202),
}


@torch.no_grad()
@pytest.mark.parametrize("sensor", SENSORS)
@pytest.mark.parametrize("correlation", [0.0, 0.5, 1.0])
def test_tokens_have_unit_order_variance_whatever_the_bands(sensor, correlation):
    waves = SENSORS[sensor]
    torch.manual_seed(0)
    embed = WavelengthEmbed(96, patch=4).eval()
    torch.nn.init.zeros_(embed.w2.bias[: embed.dim])
    common, own = torch.randn(4, 1, 32, 32), torch.randn(4, len(waves), 32, 32)
    x = correlation**0.5 * common + (1 - correlation) ** 0.5 * own
    variance = float(embed(x, waves, 10.0).x.var(dim=(0, 2, 3)).mean())
    if correlation == 0.5 or len(waves) == 1:
        assert 0.7 < variance < 1.4
    else:
        # The bound of 2 is of the variance, not of its estimate; the noise of 200 bands that have nothing in common averages out.
        assert 0.005 < variance < 2.2


def test_near_bands_have_near_features_and_polarisations_their_own():
    features = wavelength_features(torch.tensor([490.0, 492.0, 560.0, 2200.0, *RADAR.values()]))
    assert features.shape == (8, FEATURES)
    apart = torch.cdist(features, features)
    assert float(apart[0, 1]) < 0.2 < 0.5 < float(apart[0, 2]) < float(apart[0, 3])
    assert float(apart[4:, 4:][~torch.eye(4, dtype=torch.bool)].min()) > 1
    assert float(apart[:4, 4:].min()) > 1


@torch.no_grad()
@pytest.mark.parametrize("seed", range(3))
def test_random_weights_are_alike_for_near_bands_only(seed):
    torch.manual_seed(seed)
    weight, _ = WavelengthEmbed(96, patch=4).weights(torch.cat([SENSORS["Sentinel-2"], torch.tensor([444.0])]))
    flat = torch.nn.functional.normalize(weight.flatten(1))
    alike = flat @ flat.T
    apart = alike[:-1, :-1][~torch.eye(12, dtype=torch.bool)]
    assert float(alike[0, -1]) > 0.95  # a band of another satellite of the series, 1 nm away
    assert float(apart.mean()) < 0.15
    assert float(apart.max()) < 0.8  # 833 and 865 nm


def test_it_is_the_mean_of_what_each_band_gives():
    embed = WavelengthEmbed(8, patch=4).double()
    waves = torch.tensor([443.0, 865.0, -1.0])
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    mask = torch.tensor([[True, True, True], [True, False, True]])
    weight, bias = embed.weights(waves)
    tokens = embed(x, waves, 10.0, mask).x[:, 0, 0, 0]
    for image in range(2):
        bands = mask[image].nonzero().flatten().tolist()
        parts = torch.stack([torch.einsum("hw,dhw->d", x[image, b], weight[b]) for b in bands])
        products = torch.stack([weight[b].flatten() for b in bands])
        products = products @ products.T / 8
        variance = 0.5 * products.mean() + 0.5 * products.diagonal().mean() / len(bands)
        expected = parts.mean(0) / variance.sqrt() + bias[bands].mean(0)
        torch.testing.assert_close(tokens[image], expected, rtol=1e-10, atol=1e-12)
