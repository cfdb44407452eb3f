import pytest
import torch
from torch.nn import functional as F

from geovit.core.layers.tokenizers import RADAR, HypernetworkEmbed


def made(**options):
    torch.manual_seed(0)
    embed = HypernetworkEmbed(8, patch=4, code_dim=8, hidden=16, learned=4, **options)
    for parameter in embed.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return embed.eval()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("waves", [[490.0], [490.0, 865.0, 2200.0], [-1.0, -2.0]])
def test_the_convolution_is_the_sum_over_bands(dtype, tolerance, waves):
    embed = made().to(dtype)
    waves = torch.tensor(waves)
    x = torch.randn(2, len(waves), 8, 12, dtype=dtype)
    weight, bias = embed.weights(waves)
    bands = [F.conv2d(x[:, b, None], weight[b, :, None], stride=4, padding=1) for b in range(len(waves))]
    expected = (sum(bands) + bias[:, None, None]).movedim(1, -1)
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(embed(x, waves, 10.0).x[:, 0], expected, rtol=tolerance, atol=tolerance)


def test_padding_moves_the_patches_by_a_pixel():
    shifted, aligned = made(), made(padding=0)
    waves = torch.tensor([490.0])
    x = torch.randn(1, 1, 8, 8)
    torch.testing.assert_close(shifted(x, waves, 10.0).x, aligned(F.pad(x, (1, -1, 1, -1)), waves, 10.0).x)


def test_radar_is_read_as_the_published_number_stands_for_it():
    embed = made()
    codes = embed.codes(torch.tensor([*RADAR.values(), 5405.0, 5400.0]))
    assert torch.equal(codes[:5], codes[4:5].expand(5, -1))
    assert not torch.allclose(codes[5], codes[4])


def test_an_image_without_bands_is_an_error():
    mask = torch.tensor([[True, True], [False, False]])
    with pytest.raises(ValueError, match="an image has no band: leave it out"):
        made()(torch.zeros(2, 2, 4, 4), torch.tensor([490.0, 560.0]), 10.0, mask)


@pytest.mark.parametrize(("options", "message"), [({"heads": 3}, "multiple of heads 3"), ({"padding": 2}, "half of the patch 4")])
def test_sizes_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        made(**options)
