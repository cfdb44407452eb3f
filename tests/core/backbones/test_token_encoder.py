import pytest
import torch

from geovit.core.backbones.grid_encoder import GridEncoder
from geovit.core.backbones.less_encoder import LessEncoder, product
from geovit.core.backbones.token_encoder import TokenEncoder
from geovit.core.blocks.metaformer import mlp_block
from geovit.core.layers.global_attention import GlobalAttention
from geovit.core.layers.less import LessAttention
from geovit.core.layers.metre_position import MetrePosition, SpectralPosition
from geovit.core.layers.mixers import MIXERS
from geovit.core.layers.rotary import GridRotation
from geovit.core.layers.token_position import SumPosition
from geovit.core.layers.tokenizers import ChannelEmbed, WavelengthEmbed

DIM, PATCH = 16, 4
BANDS = torch.tensor([490.0, 842.0, 1610.0, -1.0])


def position():
    return SumPosition([MetrePosition(DIM), SpectralPosition(DIM)])


def joint(prefix=2):
    blocks = [mlp_block(DIM, GlobalAttention(DIM, heads=2)) for _ in range(2)]
    return TokenEncoder(ChannelEmbed(DIM, patch=PATCH), position(), blocks, prefix=prefix)


def less(**options):
    blocks = [mlp_block(DIM, LessAttention(DIM, heads=1, band_dim=4, place_dim=4)) for _ in range(2)]
    return LessEncoder(ChannelEmbed(DIM, patch=PATCH), blocks, **options)


def added():
    return less(place=MetrePosition(DIM), band=SpectralPosition(DIM))


def turned():
    return less(rotation=GridRotation(4, 4), radius=60.0)


def grid(mixer="window", tokenizer=ChannelEmbed, axes=3):
    blocks = [mlp_block(DIM, MIXERS[mixer](DIM, heads=2, axes=axes, stage=0, index=i), axes=axes) for i in range(2)]
    return GridEncoder(tokenizer(DIM, patch=PATCH), position(), blocks, axes=axes)


ENCODERS = {"joint": joint, "no prefix": lambda: joint(0), "less": added, "turned less": turned, "window": grid}


@pytest.fixture
def x():
    return torch.randn(3, 4, 8, 12, dtype=torch.float64)


@pytest.fixture(params=ENCODERS)
def encoder(request):
    return ENCODERS[request.param]().double().eval()


def test_what_comes_back_is_the_whole_grid(encoder, x):
    encoded = encoder(x, BANDS, 10.0)
    assert encoded.tokens.shape == (3, 4, 2, 3, DIM)
    assert encoded.places().shape == (3, 2, 3, DIM)
    assert encoded.prefix.shape[0] == 3


def test_hidden_tokens_do_not_matter(encoder, x):
    torch.manual_seed(1)
    hidden = torch.rand(3, 4, 2, 3).flatten(1).argsort(1).argsort(1).lt(9).reshape(3, 4, 2, 3)
    other = torch.where(hidden.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3), 7.0, x)
    with torch.no_grad():
        one, two = (encoder.encode(encoder.embed(image, BANDS, 10.0), hidden) for image in (x, other))
        torch.testing.assert_close(one.tokens[~hidden], two.tokens[~hidden])
        assert not torch.allclose(one.tokens[~hidden], encoder(x, BANDS, 10.0).tokens[~hidden])


def test_images_that_lack_bands_are_as_if_alone_with_the_others(encoder, x):
    there = torch.tensor([[True] * 4, [True, False, True, True], [False, False, True, False]])
    with torch.no_grad():
        encoded = encoder(x, BANDS, 10.0, there)
        for image, mask in enumerate(there):
            alone = encoder(x[image : image + 1, mask], BANDS[mask], 10.0)
            torch.testing.assert_close(encoded.tokens[image, mask], alone.tokens[0])
            torch.testing.assert_close(encoded.prefix[image], alone.prefix[0])
            torch.testing.assert_close(encoded.places()[image], alone.places()[0])
            assert not encoded.tokens[image, ~mask].any()


def test_lacking_and_hidden_go_together(encoder, x):
    there = torch.tensor([[True] * 4, [True, False, True, True], [False, False, True, False]])
    hidden = torch.zeros(3, 4, 2, 3, dtype=torch.bool)
    hidden[:, :, 0, 1:] = True  # the same places of all bands
    with torch.no_grad():
        encoded = encoder.encode(encoder.embed(x, BANDS, 10.0, there), hidden)
        for image, mask in enumerate(there):
            alone = encoder.encode(encoder.embed(x[image : image + 1, mask], BANDS[mask], 10.0), hidden[:1, mask])
            seen = ~hidden[0, mask]
            torch.testing.assert_close(encoded.tokens[image, mask][seen], alone.tokens[0][seen])


def test_an_image_without_any_band_is_nothing_and_no_nan(encoder, x):
    there = torch.tensor([[True] * 4, [False] * 4, [True] * 4])
    x.requires_grad_()
    encoded = encoder(x, BANDS, 10.0, there)
    assert not encoded.tokens[1].any()
    encoded.tokens.sum().backward()
    assert x.grad.isfinite().all()
    torch.testing.assert_close(encoded.tokens[0], encoder(x[:1], BANDS, 10.0).tokens[0])


def test_every_parameter_learns(encoder, x):
    hidden = torch.zeros(3, 4, 2, 3, dtype=torch.bool)
    hidden[0, 0, 0, 0] = hidden[1, 1, 1, 1] = hidden[2, 3, 0, 2] = True
    encoded = encoder.encode(encoder.embed(x, BANDS, 10.0), hidden)
    (encoded.tokens[~hidden].square().sum() + encoded.prefix.square().sum()).backward()
    without = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without


@pytest.mark.parametrize("name", [name for name in ENCODERS if name != "window"])  # windows cut the spectrum by its order
def test_the_order_of_bands_does_not_matter(name, x):
    encoder = ENCODERS[name]().double()
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        torch.testing.assert_close(encoder(x[:, order], BANDS[order], 10.0).tokens, encoder(x, BANDS, 10.0).tokens[:, order])


def test_masks_of_another_size_are_refused(encoder, x):
    with pytest.raises(ValueError, match=r"hidden is \(3, 4, 2\), expected \(3, 4, 2, 3\)"):
        encoder.encode(encoder.embed(x, BANDS, 10.0), torch.zeros(3, 4, 2, dtype=torch.bool))


@pytest.mark.parametrize("mixer", ["scan", "vssd", "shifted_window", "grid", "global", "essa"])
@pytest.mark.parametrize("axes", [2, 3])
def test_any_mixer_of_the_core_makes_an_encoder(mixer, axes, x):
    encoder = grid(mixer, WavelengthEmbed if axes == 2 else ChannelEmbed, axes).double().eval()
    hidden = torch.rand(3, 1 if axes == 2 else 4, 2, 3) < 0.5
    with torch.no_grad():
        encoded = encoder.encode(encoder.embed(x, BANDS, 10.0), hidden)
    assert encoded.tokens.shape == (*hidden.shape, DIM)
    assert encoded.prefix.shape == (3, 0, DIM)
    assert encoded.tokens.isfinite().all()


def test_a_hidden_token_keeps_its_position(x):
    encoder = grid("window", WavelengthEmbed, 2).double()
    encoder.blocks, encoder.norm = torch.nn.ModuleList(), torch.nn.Identity()
    with torch.no_grad():
        tokens = encoder.embed(x, BANDS, 10.0)
        encoded = encoder.encode(tokens, torch.ones(3, 1, 2, 3, dtype=torch.bool))
        torch.testing.assert_close(encoded.tokens, (encoder.mask_token + encoder.position(tokens)).expand(3, -1, -1, -1, -1))


def test_several_spectral_tokens_need_three_axes(x):
    with pytest.raises(ValueError, match="got 4 spectral tokens, expected one for blocks of 2 axes"):
        grid("window", ChannelEmbed, 2).double()(x, BANDS, 10.0)


def test_whole_bands_and_places_that_are_hidden_are_left_out(x):
    encoder = added().double()
    bands = torch.tensor([[True, True, False, True], [False, True, True, True], [True, False, True, True]])
    places = torch.tensor([[True, False, True], [False, True, True]]).expand(3, 2, 3)
    hidden = ~(bands[:, :, None, None] & places[:, None])
    lengths = []
    encoder.blocks[0].register_forward_hook(lambda module, given, result: lengths.append(given[0].shape[1:3]))
    encoder.encode(encoder.embed(x, BANDS, 10.0), hidden)
    assert lengths == [(1 + 3, 1 + 4)]
    hidden[0, 0, 0, 0] = True
    encoder.encode(encoder.embed(x, BANDS, 10.0), hidden)
    assert lengths[1] == (1 + 4, 1 + 6)


def test_what_is_seen_is_a_product_or_not():
    seen = torch.zeros(2, 3, 4, dtype=torch.bool)
    seen[0, :2, 1:] = seen[1, 1:, :3] = True
    bands, places = product(seen)
    assert bands.tolist() == [[0, 1], [1, 2]]
    assert places.tolist() == [[1, 2, 3], [0, 1, 2]]
    assert product(torch.zeros_like(seen)) is None
    uneven = seen.clone()
    uneven[0, 0] = False  # one band here, two there
    assert product(uneven) is None


def test_published_less_has_no_token_for_single_hidden_tokens(x):
    encoder = less(replace_hidden=False).double()
    with pytest.raises(ValueError, match="hides whole bands and places only"):
        encoder.encode(encoder.embed(x, BANDS, 10.0), torch.eye(24).bool()[:3].reshape(3, 4, 2, 3))


def test_places_within_the_radius_see_each_other_and_the_class_token_sees_all(x):
    encoder = less(radius=45.0).double()
    tokens = encoder.embed(x, BANDS, torch.tensor([10.0, 5.0, 20.0]))  # 40, 20 and 80 m from token to token
    near = encoder.context(tokens).near
    assert near.shape == (3, 7, 7)
    assert near[:, 0].all()
    assert near[:, :, 0].all()
    # From the first of 2 x 3 places.
    assert near[0, 1, 1:].tolist() == [True, True, False, True, False, False]
    assert near[1, 1, 1:].tolist() == [True, True, True, True, True, True]
    assert near[2, 1, 1:].tolist() == [True, False, False, False, False, False]
    kept = torch.zeros(3, 4, dtype=torch.long).add(torch.arange(4)), torch.tensor([[1, 5], [0, 2], [3, 4]])
    assert encoder.context(tokens, kept).near[0].tolist() == [[True] * 3, [True, True, False], [True, False, True]]
    with pytest.raises(ValueError, match="radius is 0"):
        less(radius=0)
