import pytest
import torch

from geovit.core.ops.less_attention import eager, less_attention

# Batch, ranks, heads, bands, places, widths of queries and values of bands and of places, channels out. Each order of the
# projection is the cheapest once.
SIZES = {
    "places first": (2, 1, 2, 9, 5, 4, 2, 8, 9, 11),
    "bands first": (2, 1, 3, 4, 7, 3, 6, 5, 2, 10),
    "tokens first": (1, 5, 2, 5, 3, 4, 2, 4, 2, 3),
    "one of each": (1, 1, 1, 1, 1, 1, 1, 1, 1, 1),
    "odd": (3, 2, 3, 7, 13, 5, 3, 6, 7, 17),
}


def make(size, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    batch, ranks, heads, bands, places, width, value, site_width, site_value, out = size
    shapes = [
        *[(batch, ranks, heads, bands, width)] * 2,
        (batch, ranks, heads, bands, value),
        *[(batch, ranks, heads, places, site_width)] * 2,
        (batch, ranks, heads, places, site_value),
        (out, heads * value * site_value),
        (out,),
    ]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def call(inputs, **options):
    *qkv, weight, bias = inputs
    return less_attention(*qkv, weight=weight, bias=bias, **options)


def results(inputs, **options):
    out = call(inputs, **options)
    return [out, *torch.autograd.grad(out, inputs, torch.linspace(-1, 2, out.numel()).view(out.shape).to(out.dtype))]


def agree(got, want, tolerance):
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        worst = (g.double() - w.double()).abs().max() / w.double().abs().max().clamp_min(1e-30)
        assert worst <= tolerance, f"result {i} is off by {worst:.1e}"


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_the_factors_are_the_explicit_kronecker_product(size, mean):
    inputs = make(size, torch.float64)
    agree(results(inputs, mean=mean), results(inputs, mean=mean, backend="reference"), 1e-12)
    narrow = [x.detach().float().requires_grad_() for x in inputs]
    wide = [x.detach().double().requires_grad_() for x in narrow]
    agree(results(narrow, mean=mean), results(wide, mean=mean, backend="reference"), 1e-5)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_without_gradients_the_result_is_the_same(size):
    inputs = make(size, torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(call(inputs), call(inputs, backend="reference"), atol=1e-12, rtol=1e-12)


def test_without_a_projection_channels_are_heads_bands_places():
    inputs = make(SIZES["odd"], torch.float64)
    *qkv, weight, bias = inputs
    got = less_attention(*qkv)
    assert got.shape == (3, 7, 13, 3 * 3 * 7)
    torch.testing.assert_close(got, less_attention(*qkv, backend="reference"))
    torch.testing.assert_close(got @ weight.mT + bias, call(inputs))


def test_one_value_may_serve_all_ranks():
    *qkv, weight, bias = make(SIZES["odd"], torch.float64)
    shared = [x[:, :1] if i in (2, 5) else x for i, x in enumerate(qkv)]
    repeated = [x[:, :1].expand(-1, 2, -1, -1, -1) if i in (2, 5) else x for i, x in enumerate(qkv)]
    torch.testing.assert_close(call([*shared, weight, bias]), call([*repeated, weight, bias]))
    torch.testing.assert_close(call([*shared, weight, bias], backend="reference"), call([*shared, weight, bias]))


@pytest.mark.parametrize("rows", ["all", "each", "keys"])
def test_masks_are_those_of_the_explicit_form(rows):
    inputs = make(SIZES["odd"], torch.float64)
    generator = torch.Generator().manual_seed(1)
    masks = {}
    for name, count in (("band_mask", 7), ("place_mask", 13)):
        shape = {"all": (count, count), "each": (3, count, count), "keys": (3, 1, count)}[rows]
        masks[name] = torch.rand(shape, generator=generator) < 0.5
        masks[name][..., 0] = True
    agree(results(inputs, **masks), results(inputs, backend="reference", **masks), 1e-12)


def test_what_is_masked_does_not_matter():
    inputs = [x.detach() for x in make(SIZES["odd"], torch.float64)]
    seen = torch.ones(3, 1, 7, dtype=torch.bool)
    seen[1, :, 4:] = False
    other = [x.clone() for x in inputs]
    for x in other[1:3]:
        x[1, :, :, 4:] = 1e3
    torch.testing.assert_close(call(other, band_mask=seen), call(inputs, band_mask=seen))


def test_bfloat16_and_autocast_stay_near():
    inputs = [x.detach() for x in make(SIZES["odd"], torch.float32)]
    want = call(inputs, backend="reference")
    assert (call([x.bfloat16() for x in inputs]) - want).abs().max() < 0.03 * want.abs().max()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (call(inputs) - want).abs().max() < 0.03 * want.abs().max()


def test_each_order_is_taken_where_it_is_the_cheapest(monkeypatch):
    monkeypatch.setattr(eager, "linear", lambda *_: "tokens")
    with torch.no_grad():
        assert call(make(SIZES["tokens first"], torch.float64)) == "tokens"
        assert call(make(SIZES["places first"], torch.float64)) != "tokens"
        assert call(make(SIZES["bands first"], torch.float64)) != "tokens"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"q_band": (2, 1, 2, 8, 4)}, "q, k, v of band are"),
        ({"v_place": (2, 1, 2, 4, 9)}, "q, k, v of place are"),
        ({"band_mask": (9, 9)}, r"band_mask is torch.float32 \(9, 9\)"),
        ({"weight": (11, 35)}, r"weight \(11, 35\), expected a weight \(out, 36\)"),
        ({"weight": None}, "got a bias alone"),
        ({"backend": "native"}, "backend is 'native', expected one of auto, reference, eager"),
    ],
)
def test_what_does_not_fit_is_told(change, told):
    names = ("q_band", "k_band", "v_band", "q_place", "k_place", "v_place", "weight", "bias")
    given = dict(zip(names, make(SIZES["places first"], torch.float32), strict=True))
    given |= {name: torch.ones(value) if isinstance(value, tuple) else value for name, value in change.items()}
    with pytest.raises(ValueError, match=told):
        less_attention(**given)


def test_ranks_of_the_axes_must_agree():
    inputs = make(SIZES["odd"], torch.float32)
    with pytest.raises(ValueError, match=r"\(3, 2, 3\) and \(3, 1, 3\), expected the same"):
        less_attention(*inputs[:3], *(x[:, :1] for x in inputs[3:6]))
