"""What holds for every tokeniser."""

import pytest
import torch

from geovit.core.layers.tokenizers import (
    ChannelEmbed,
    CubeEmbed,
    GroupEmbed,
    HypernetworkEmbed,
    SpectralAdapter,
    SpectralAdapterEmbed,
    SpectralRangeEmbed,
    Tokenizer,
    WavelengthEmbed,
)

BANDS = (443.0, 493.0, 560.0, 665.0, 704.0, 741.0, 783.0, 833.0, 865.0)
RADAR = (-1.0, -2.0)

MADE = {
    "range": lambda: SpectralRangeEmbed(16, patch=4),
    "wavelength": lambda: WavelengthEmbed(16, patch=4),
    "hypernetwork": lambda: HypernetworkEmbed(16, patch=4, code_dim=8, hidden=16, learned=4),
    "group": lambda: GroupEmbed(16, patch=4, groups=(BANDS[:4], BANDS[4:], RADAR)),
    "cube": lambda: CubeEmbed(16, patch=4),
    "channel": lambda: ChannelEmbed(16, patch=4),
    "known channel": lambda: ChannelEmbed(16, patch=4, channels=BANDS + RADAR),
    "adapter": lambda: SpectralAdapterEmbed(
        16, patch=4, adapter=SpectralAdapter(channels=(4, 6), kernels=(3, 3), strides=(2, 2))
    ),
}
JOINING = ("range", "wavelength", "hypernetwork", "adapter")  # one token for all bands
OPTICAL = ("cube", "adapter")


@pytest.fixture(params=MADE)
def name(request):
    return request.param


@pytest.fixture
def embed(name):
    torch.manual_seed(0)
    made = MADE[name]().double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


def bands(name):
    return torch.tensor(BANDS if name in OPTICAL else BANDS + RADAR)


def image(name, batch=3):
    return torch.randn(batch, len(bands(name)), 8, 12, dtype=torch.float64)


def same(got, want):
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-11)


def test_it_is_a_tokenizer_and_tells_the_pitch(name, embed):
    assert isinstance(embed, Tokenizer)
    tokens = embed(image(name), bands(name), torch.tensor([10.0, 20.0, 30.0]))
    assert tokens.x.shape[0] == 3
    assert tokens.x.shape[2:] == (2, 3, 16)
    assert tokens.pitch.tolist() == [40.0, 80.0, 120.0]
    assert tokens.wavelengths is None or len(tokens.wavelengths) == tokens.x.shape[1]


def test_any_order_of_bands_gives_the_same_after_sorting(name, embed):
    x, waves = image(name), bands(name)
    order = torch.randperm(len(waves), generator=torch.Generator().manual_seed(1))
    mask = torch.rand(x.shape[:2], generator=torch.Generator().manual_seed(2)) > 0.3
    for there in (None, mask):
        one = embed(x, waves, 10.0, there)
        other = embed(x[:, order], waves[order], 10.0, None if there is None else there[:, order])
        got, want = other.x, one.x
        if other.x.shape[1] == len(waves):  # a token for each band: in the order of the bands
            assert torch.equal(other.wavelengths, one.wavelengths[order])
            want = want[:, order]
            assert there is None or torch.equal(other.present, one.present[:, order])
        same(got, want)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_masked_band_is_one_that_was_left_out(name, embed, count):
    x, waves = image(name), bands(name)
    if name == "cube":  # only a whole cube can be left out
        keep = torch.arange(len(waves)) < 3 * (1 + count % 2)
    else:
        keep = torch.randperm(len(waves), generator=torch.Generator().manual_seed(count)) < max(
            count, 7 if name == "adapter" else 1
        )
    mask = torch.ones(x.shape[:2], dtype=torch.bool)
    mask[1] = keep
    spoilt = x.where(mask[..., None, None], torch.nan)  # their values are not looked at
    masked = embed(spoilt, waves, 10.0, mask)
    left, whole = embed(x[1:2, keep], waves[keep], 10.0), embed(x, waves, 10.0)
    same(masked.x[::2], whole.x[::2])
    if name in JOINING:
        same(masked.x[1:2], left.x)
    elif name == "group":
        same(masked.x[1:2], left.x)
        assert torch.equal(masked.present[1:2], torch.ones(1, 3, dtype=torch.bool) if left.present is None else left.present)
    else:
        there = masked.present[1]
        assert int(there.sum()) == left.x.shape[1]
        same(masked.x[1:2, there], left.x)
        assert bool(masked.present[::2].all())


def test_what_no_tokenizer_takes_is_an_error_of_one_line(name, embed):
    x, waves = image(name), bands(name)
    unknown = waves.clone()
    unknown[0] = -7.0
    for wrong, size, message in (
        (waves[:-1], 12, f"expected one for each of {len(waves)} bands"),
        (waves / 1000 if name in OPTICAL else waves.where(waves < 0, waves / 1000), 12, "0.443 um would be 443 nm"),
        (unknown, 12, "wavelength -7; allowed are 200..20000 nm and the codes of radar"),
        (waves, 11, "not a multiple of the patch 4"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            embed(x[..., :size], wrong, 10.0)
        assert "\n" not in str(caught.value)


def test_bfloat16_is_near_float32(name, embed):
    embed = embed.float()
    x, waves = image(name).float(), bands(name)
    mask = torch.ones(x.shape[:2], dtype=torch.bool)
    with torch.no_grad():
        exact = embed(x, waves, 10.0).x
        for there in (None, mask):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                rough = embed(x, waves, 10.0, there).x
            assert float((rough.float() - exact).abs().max()) < 0.03 * float(exact.abs().max())
        # That pass left nothing rough behind.
        assert torch.equal(embed(x, waves, 10.0).x, exact)


def test_every_parameter_learns(name, embed):
    embed.train()
    embed(image(name), bands(name), 10.0).x.square().mean().backward()
    assert all(parameter.grad is not None for parameter in embed.parameters())
