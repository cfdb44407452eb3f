import pytest
import torch
from torch import Tensor

from geovit.core.ops.linear_attention import linear_attention, retention

MAPS = ["elu", "relu", "identity", "correlation"]


def make(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def results(function, inputs: list[Tensor]) -> list[Tensor]:
    """Outputs and all gradients, for a gradient that differs from element to element."""
    outs = function(*inputs)
    outs = outs if isinstance(outs, tuple) else (outs,)
    weights = [torch.linspace(-1, 2, out.numel()).view(out.shape).to(out.dtype) for out in outs]
    return [*outs, *torch.autograd.grad(outs, inputs, weights)]


def assert_agrees(function, inputs: list[Tensor], *, outputs: int = 1) -> None:
    """Hold backend "eager" in the inputs' dtype to the reference in float64."""
    wide = [x.detach().double().requires_grad_() for x in inputs]
    got = results(lambda *x: function(*x, backend="eager"), inputs)
    want = results(lambda *x: function(*x, backend="reference"), wide)
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        worst = (g.double() - w).abs().max() / w.abs().max().clamp_min(1e-30)
        assert worst <= (1e-5 if i < outputs else 1e-4), f"result {i} is off by {worst:.1e}"


# Sizes on both sides of the change of order, and more leading axes than one.
@pytest.mark.parametrize("feature_map", MAPS)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(
    ("leading", "queries", "keys", "width", "values"), [((2, 3), 65, 65, 8, 5), ((), 7, 3, 16, 24), ((2,), 1, 63, 4, 4)]
)
def test_linear_attention_agrees_with_the_explicit_weights(feature_map, normalize, leading, queries, keys, width, values):
    inputs = make((*leading, queries, width), (*leading, keys, width), (*leading, keys, values))
    if feature_map == "identity" and normalize:
        inputs = [x.detach().abs().requires_grad_() for x in inputs]  # else sums of weights may vanish
    assert_agrees(lambda *x, backend: linear_attention(*x, feature_map=feature_map, normalize=normalize, backend=backend), inputs)


@pytest.mark.parametrize("feature_map", ["elu", "relu"])
def test_normalized_weights_average_the_values(feature_map):
    q, k = make((2, 30, 8), (2, 30, 8))
    same = torch.full((2, 30, 3), 5.0)
    torch.testing.assert_close(linear_attention(q, k, same, feature_map=feature_map), same, rtol=1e-5, atol=0)


def test_a_query_without_a_match_is_zero_and_so_is_its_gradient():
    q, k, v = make((1, 4, 8), (1, 4, 8), (1, 4, 8))
    nothing = torch.full_like(q, -1.0).requires_grad_()
    out = linear_attention(nothing, k, v, feature_map="relu")
    assert torch.equal(out, torch.zeros_like(out))
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(out.square().sum(), [nothing, k, v]))


def test_correlation_ignores_brightness_and_contrast():
    # What the spectral correlation coefficient is for: a query and its shaded, hazy copy have the same weights.
    q, k, v = (x.detach() for x in make((20, 31), (20, 31), (20, 4)))
    same = linear_attention(0.3 * q + 7, k, v, feature_map="correlation", normalize=False)
    torch.testing.assert_close(linear_attention(q, k, v, feature_map="correlation", normalize=False), same, rtol=1e-4, atol=1e-5)


def test_correlation_of_constant_spectra_is_finite():
    q = torch.ones(1, 5, 8, requires_grad=True)
    out = linear_attention(q, q, torch.ones(1, 5, 8), feature_map="correlation", normalize=False)
    assert torch.equal(out, torch.zeros_like(out))
    assert torch.autograd.grad(out.sum(), q)[0].isfinite().all()


@pytest.mark.parametrize("backend", ["reference", "eager"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_once_also_under_autocast(dtype, backend):
    q, k, v = (x.detach().to(dtype) for x in make((2, 500, 8), (2, 500, 8), (2, 500, 8)))
    exact = linear_attention(q.double(), k.double(), v.double(), backend="reference")
    with torch.autocast("cpu", torch.bfloat16):
        got = linear_attention(q, k, v, backend=backend)
    assert got.dtype == dtype
    torch.testing.assert_close(got, exact.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)


def retained(heads: int, groups: int, length: int, *, gated: bool, batch: int = 2) -> list[Tensor]:
    """q, k, v, log_decay, initial state; gates from almost none to almost all forgotten in a step."""
    q, k, v, state = make((batch, length, groups, 5), (batch, length, groups, 5), (batch, length, heads, 6), (batch, heads, 5, 6))
    rates = torch.logspace(-3, 1.5, heads)
    gates = torch.rand(batch, length, heads, generator=torch.Generator().manual_seed(1)) if gated else torch.ones(heads)
    return [q, k, v, (-gates * rates).requires_grad_(), state]


# Around the borders of chunks; 300 chunks of one step, so that the scan over chunks has several levels.
@pytest.mark.parametrize(("length", "chunk"), [(1, 64), (7, 4), (63, 64), (64, 64), (65, 64), (128, 64), (130, 16), (300, 1)])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_retention_agrees_with_the_recurrence(length, chunk, gated, groups):
    def function(q, k, v, log_decay, state, *, backend):
        return retention(q, k, v, log_decay, chunk=chunk, initial_state=state, return_state=True, backend=backend)

    assert_agrees(function, retained(4, groups, length, gated=gated), outputs=2)


def test_retention_is_the_explicit_sum_of_decayed_weights():
    q, k, v, log_decay, _ = (x.detach().double() for x in retained(3, 3, 20, gated=False))
    age = (torch.arange(20)[:, None] - torch.arange(20)).double()
    weights = torch.einsum("bihd,bjhd->bhij", q, k) * (log_decay[:, None, None] * age).exp() * (age >= 0)
    want = torch.einsum("bhij,bjhp->bihp", weights, v)
    torch.testing.assert_close(retention(q, k, v, log_decay, chunk=8), want)


def test_retention_without_decay_is_causal_linear_attention():
    q, k, v, _, _ = (x.detach() for x in retained(2, 2, 33, gated=False))
    got = retention(q, k, v, torch.zeros(2), chunk=8)
    for last in (0, 10, 32):
        past = [x[:, : last + 1].transpose(1, 2) for x in (q, k, v)]
        want = linear_attention(past[0][:, :, -1:], *past[1:], feature_map="identity", normalize=False)
        torch.testing.assert_close(got[:, last : last + 1], want.transpose(1, 2))


def test_strong_decays_keep_their_digits():
    # The sums of logarithms reach -6000 in a chunk; in float32 their differences would be wrong in the fourth digit.
    q, k, v, _, _ = retained(4, 1, 128, gated=True)
    strong = -100 * torch.rand(2, 128, 4, generator=torch.Generator().manual_seed(2)).pow(4)
    assert_agrees(lambda *x, backend: retention(*x, backend=backend), [q, k, v, strong.requires_grad_()])


@pytest.mark.parametrize("gate", [-1e30, -torch.inf])
def test_a_closed_gate_forgets_all_before_it_and_nothing_after(gate):
    q, k, v, log_decay, _ = (x.detach() for x in retained(2, 2, 70, gated=True))
    log_decay[:, 40] = gate
    got = retention(q, k, v, log_decay, chunk=32)
    want = retention(q[:, 40:], k[:, 40:], v[:, 40:], log_decay[:, 40:], backend="reference")
    torch.testing.assert_close(got[:, 40:], want, rtol=1e-5, atol=1e-5)


def test_the_state_goes_on_where_the_sequence_was_cut():
    q, k, v, log_decay, state = (x.detach() for x in retained(4, 2, 100, gated=True))
    whole, last = retention(q, k, v, log_decay, initial_state=state, return_state=True)
    parts = []
    for piece in (slice(0, 37), slice(37, 38), slice(38, 100)):
        y, state = retention(*(x[:, piece] for x in (q, k, v, log_decay)), chunk=16, initial_state=state, return_state=True)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state, last, rtol=1e-5, atol=1e-5)


def test_states_are_not_rounded_under_autocast():
    q, k, v, log_decay, _ = (x.detach() for x in retained(2, 1, 200, gated=True))
    q, k, v = (x.to(torch.bfloat16) for x in (q, k, v))
    exact = retention(q.double(), k.double(), v.double(), log_decay.double(), backend="reference")
    with torch.autocast("cpu", torch.bfloat16):
        y, state = retention(q, k, v, log_decay, return_state=True)
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(y, exact.to(torch.bfloat16), rtol=2**-7, atol=1e-5)


def test_strides_do_not_matter():
    inputs = [x.detach() for x in retained(4, 2, 65, gated=True)[:4]]
    strided = [x.transpose(0, -1).contiguous().transpose(0, -1) for x in inputs]
    torch.testing.assert_close(retention(*strided), retention(*inputs))
    strided = [x.mT.contiguous().mT for x in inputs[:3]]
    torch.testing.assert_close(
        linear_attention(*(strided[i][:, :, :2] for i in range(3))), linear_attention(*(x[:, :, :2] for x in inputs[:3]))
    )


def test_compiles_as_one_graph():
    inputs = retained(4, 2, 65, gated=True)[:4]

    def both(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> Tensor:
        y, state = retention(q, k, v, log_decay, chunk=16, return_state=True)
        return y.square().sum() + state.sum() + linear_attention(q, k, v[:, :, :2]).square().sum()

    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(*inputs), inputs), torch.autograd.grad(both(*inputs), inputs))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": torch.zeros(2, 6, 4)}, r"k has shape \(2, 6, 4\), expected \(2, 6, 3\)"),
        ({"v": torch.zeros(2, 5, 3)}, r"v has shape \(2, 5, 3\), expected \(2, 6, 3\)"),
        ({"q": torch.zeros(3)}, "q has shape"),
        ({"v": torch.zeros(2, 6, 3, dtype=torch.int64)}, "dtype torch.int64, expected a floating"),
        ({"v": torch.zeros(2, 6, 3).double()}, "float32, torch.float32, torch.float64, expected one"),
        ({"v": torch.zeros(2, 6, 3, device="meta")}, "several devices.*meta"),
        ({"feature_map": "softmax"}, "'softmax', expected one of elu"),
        ({"backend": "native"}, "'native', expected one of auto"),
    ],
)
def test_wrong_linear_attention_is_named(change, message):
    arguments = {name: torch.zeros(2, 6, 3) for name in "qkv"} | change
    with pytest.raises(ValueError, match=message):
        linear_attention(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_decay": torch.zeros(2, 6)}, r"log_decay has shape \(2, 6\), expected \(2, 6, 4\)"),
        ({"log_decay": torch.zeros(2)}, r"log_decay has shape \(2,\), expected \(4,\)"),
        ({"k": torch.zeros(2, 6, 1, 5)}, r"k has shape .*, expected \(2, 6, 2, 5\)"),
        ({"q": torch.zeros(2, 6, 3, 5), "k": torch.zeros(2, 6, 3, 5)}, "3 groups do not divide 4 heads"),
        ({"v": torch.zeros(2, 6, 4)}, "v has shape"),
        ({"initial_state": torch.zeros(2, 4, 3, 5)}, r"initial_state .*expected \(2, 4, 5, 3\)"),
        ({"chunk": 0}, "length is 6 and chunk 0"),
        ({"log_decay": torch.zeros(4, device="meta")}, "several devices"),
        ({"backend": "fast"}, "'fast', expected one of auto"),
    ],
)
def test_wrong_retention_is_named(change, message):
    arguments = {
        "q": torch.zeros(2, 6, 2, 5),
        "k": torch.zeros(2, 6, 2, 5),
        "v": torch.zeros(2, 6, 4, 3),
        "log_decay": torch.zeros(4),
    } | change
    with pytest.raises(ValueError, match=message):
        retention(**arguments)
