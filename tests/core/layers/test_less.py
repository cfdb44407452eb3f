import pytest
import torch

from geovit.core.layers.less import GridAttention, GridContext, LessAttention, perception_field
from geovit.core.layers.lora import LoRALinear
from geovit.core.layers.rotary import GridRotation
from geovit.core.layers.tokenizers import Tokens


def layer(**options):
    options = {"heads": 2, "band_dim": 8, "place_dim": 8} | options
    return LessAttention(32, **options).double()


def rotation(**options):
    tokens = Tokens(torch.zeros(2, 4, 2, 3, 8), torch.tensor([490.0, 842.0, 1610.0, -1.0]), torch.tensor([10.0, 30.0]))
    return GridRotation(4, 4, **options)(tokens)


@pytest.mark.parametrize("combine", ["product", "sum"])
def test_an_adapter_may_take_the_place_of_the_projection(combine):
    attention, x = layer(combine=combine), torch.randn(2, 5, 7, 32, dtype=torch.float64)
    want = attention(x)
    attention.proj = LoRALinear(attention.proj, rank=2)
    torch.testing.assert_close(attention(x), want)


@pytest.mark.parametrize("combine", ["product", "sum"])
def test_bands_and_places_may_come_in_any_order(combine):
    attention, x = layer(combine=combine, ranks=2), torch.randn(2, 5, 7, 32, dtype=torch.float64)
    bands, places = torch.tensor([0, 3, 1, 4, 2]), torch.tensor([0, 6, 2, 4, 1, 5, 3])
    torch.testing.assert_close(attention(x[:, bands][:, :, places]), attention(x)[:, bands][:, :, places])


@pytest.mark.parametrize("kind", [layer, lambda: GridAttention(32, heads=2).double()])
def test_absent_bands_are_not_looked_at(kind):
    attention, x = kind(), torch.randn(2, 5, 7, 32, dtype=torch.float64)
    there = torch.tensor([[True] * 5, [True, True, False, True, False]])
    got = attention(x, GridContext(present=there))
    torch.testing.assert_close(got[1:, there[1]], attention(x[1:, there[1]]))
    torch.testing.assert_close(got[:1], attention(x[:1]))


def test_full_attention_looks_only_at_near_places():
    attention, x = GridAttention(32, heads=2).double(), torch.randn(2, 5, 7, 32, dtype=torch.float64)
    alone = torch.eye(7, dtype=torch.bool)  # each place sees itself, in all bands
    got = attention(x, GridContext(near=alone))
    torch.testing.assert_close(got[:, :, 3:4], attention(x[:, :, 3:4]))
    torch.testing.assert_close(attention(x, GridContext(near=alone.expand(2, -1, -1))), got)


def test_turned_scores_depend_on_distances_alone():
    places, bands = rotation(field=100.0)
    q, k = torch.randn(2, 1, 1, 1, 4, dtype=torch.float64).expand(2, 2, 2, 6, 4)
    scores = torch.einsum("bhqd,bhkd->bhqk", places(q), places(k))
    torch.testing.assert_close(scores[..., 0, 1], scores[..., 1, 2], atol=1e-6, rtol=0)
    torch.testing.assert_close(scores[..., 0, 1], scores[..., 4, 5], atol=1e-6, rtol=0)
    torch.testing.assert_close(scores[..., 0, 3], scores[..., 2, 5], atol=1e-6, rtol=0)
    assert (scores[0, ..., 0, 1] - scores[1, ..., 0, 1]).abs().min() > 1e-3  # 10 and 30 metres
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(bands(x).norm(dim=-1), x.norm(dim=-1), atol=1e-6, rtol=0)
    index = torch.tensor([[2, 0], [1, 3]])
    taken = bands.at(index)(x.gather(2, index[:, None, :, None].expand(-1, 2, -1, 4)))
    torch.testing.assert_close(taken, bands(x).gather(2, index[:, None, :, None].expand(-1, 2, -1, 4)))


def test_without_a_field_the_image_spans_one_turn_whatever_it_shows():
    places, _ = rotation(field=None)
    assert len(places.sin) == 1
    assert rotation(field=100.0)[0].sin.shape == (2, 6, 4)


def test_the_field_is_round_and_in_metres():
    near = perception_field(3, 3, torch.tensor([10.0, 4.0]), 12.0)
    assert near[0, 4].tolist() == [False, True, False, True, True, True, False, True, False]
    assert near[1, 0].tolist() == [True, True, True, True, True, True, True, True, True]
    assert near[0].diagonal().all()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: layer(band_dim=4), r"band_dim 4 \* place_dim 8 is not dim \* heads = 64"),
        (lambda: layer(heads=3), "are no multiples of heads 3"),
        (lambda: layer(combine="mean"), "combine is 'mean'"),
        (lambda: GridAttention(10, heads=3), "dim 10 is not a multiple of heads 3"),
        (lambda: GridRotation(6, 4), "place is 6 and band 4, expected multiples of 4 and of 2"),
        (
            lambda: GridRotation(4, 4)(Tokens(torch.zeros(1, 1, 2, 2, 8), None, torch.ones(1))),
            "the tokens have no wavelengths",
        ),
    ],
)
def test_what_does_not_fit_is_told(make, told):
    with pytest.raises(ValueError, match=told):
        make()
