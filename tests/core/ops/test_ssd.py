import pytest
import torch
from torch import Tensor

from geovit.core.ops.ssd import ssd, ssd_noncausal

HEADS, HEAD_DIM, STATES = 4, 6, 5


def make(length: int, groups: int | None, batch: int = 2) -> dict[str, Tensor]:
    """Inputs as in a Mamba-2 layer, and an initial state; without groups B and C have no axis for them."""
    torch.manual_seed(length)
    projections = (batch, length, *(() if groups is None else (groups,)), STATES)
    inputs = {
        "x": torch.randn(batch, length, HEADS, HEAD_DIM),
        "dt": torch.nn.functional.softplus(torch.randn(batch, length, HEADS)),
        "A": -torch.logspace(-1, 1.2, HEADS),
        "B": torch.randn(projections),
        "C": torch.randn(projections),
        "D": torch.randn(HEADS),
        "initial_state": torch.randn(batch, HEADS, HEAD_DIM, STATES),
    }
    return {name: x.requires_grad_() for name, x in inputs.items()}


def results(function, inputs: dict[str, Tensor], **options) -> list[Tensor]:
    outs = function(**inputs, **options)
    outs = outs if isinstance(outs, tuple) else (outs,)
    weights = [torch.linspace(-1, 2, out.numel()).view(out.shape).to(out.dtype) for out in outs]
    return [*outs, *torch.autograd.grad(outs, list(inputs.values()), weights)]


def assert_agrees(function, inputs: dict[str, Tensor], *, outputs: int, **options) -> None:
    wide = {name: x.detach().double().requires_grad_() for name, x in inputs.items()}
    got, want = results(function, inputs, backend="eager", **options), results(function, wide, backend="reference", **options)
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        worst = (g.double() - w).abs().max() / w.abs().max()
        assert worst <= (1e-5 if i < outputs else 1e-4), f"result {i} is off by {worst:.1e}"


def image(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x for name, x in inputs.items() if name != "initial_state"}


@pytest.mark.parametrize(("length", "chunk"), [(1, 64), (7, 64), (63, 64), (64, 64), (65, 64), (65, 16), (200, 2)])
@pytest.mark.parametrize("groups", [None, 2, 4])
def test_ssd_agrees_with_the_recurrence(length, chunk, groups):
    assert_agrees(ssd, make(length, groups), outputs=2, chunk=chunk, return_state=True)


# 1 and 7 tokens take the explicit weights, the others the state.
@pytest.mark.parametrize("tokens", [1, 7, 64, 65])
@pytest.mark.parametrize("groups", [None, 2, 4])
def test_ssd_noncausal_agrees_with_the_explicit_sum(tokens, groups):
    assert_agrees(ssd_noncausal, image(make(tokens, groups)), outputs=1)


def test_steps_given_apart_or_multiplied_are_the_same():
    inputs = make(50, 2)
    x, dt, A = inputs["x"], inputs["dt"], inputs["A"]
    multiplied = ssd(x * dt[..., None], None, dt * A, inputs["B"], inputs["C"])
    torch.testing.assert_close(multiplied, ssd(x, dt, A, inputs["B"], inputs["C"]))


def test_a_group_serves_neighbouring_heads():
    inputs = image(make(20, 2))
    for function in (ssd, ssd_noncausal):
        alone = {
            name: x[..., :2] if name in ("dt", "A", "D") else x[:, :, :2] if name == "x" else x[:, :, :1]
            for name, x in inputs.items()
        }
        torch.testing.assert_close(function(**inputs)[:, :, :2], function(**alone))


def test_ssd_sees_the_past_only_and_ssd_noncausal_no_order():
    inputs = image({name: x.detach().double() for name, x in make(40, 1).items()})
    later = {name: x.clone() for name, x in inputs.items()}
    later["x"][:, 25:] += 1
    assert torch.equal(ssd(**inputs, chunk=16)[:, :25], ssd(**later, chunk=16)[:, :25])
    order = torch.randperm(40)
    shuffled = {name: x if name in ("A", "D") else x[:, order] for name, x in inputs.items()}
    torch.testing.assert_close(ssd_noncausal(**shuffled), ssd_noncausal(**inputs)[:, order])


def test_a_step_size_of_zero_leaves_the_state():
    inputs = {name: x.detach() for name, x in make(30, 1).items()}
    inputs["dt"][:, 10:] = 0
    _, state = ssd(**inputs, chunk=8, return_state=True)
    short = {name: x if name in ("A", "D", "initial_state") else x[:, :10] for name, x in inputs.items()}
    torch.testing.assert_close(state, ssd(**short, return_state=True)[1])


@pytest.mark.parametrize("function", [ssd, ssd_noncausal])
@pytest.mark.parametrize("backend", ["reference", "eager"])
def test_half_precision_keeps_its_dtype_and_float32_sums(function, backend):
    inputs = image({name: x.detach() for name, x in make(130, 1).items()})
    half = {name: x.to(torch.bfloat16) if name in ("x", "B", "C") else x for name, x in inputs.items()}
    exact = function(**{name: x.double() for name, x in half.items()}, backend="reference")
    with torch.autocast("cpu", torch.bfloat16):
        got = function(**half, backend=backend)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, exact.to(torch.bfloat16), rtol=2**-7, atol=1e-5 * exact.abs().max().item())


@pytest.mark.parametrize("function", [ssd, ssd_noncausal])
def test_compiles_as_one_graph(function):
    inputs = image(make(40, 2))
    compiled = torch.compile(lambda **x: function(**x).square().sum(), fullgraph=True, backend="aot_eager")
    leaves = list(inputs.values())
    got, want = (torch.autograd.grad(y, leaves) for y in (compiled(**inputs), function(**inputs).square().sum()))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dt": torch.zeros(2, 7)}, r"dt has shape \(2, 7\), expected \(2, 7, 4\)"),
        ({"A": torch.zeros(4, 5)}, r"A has shape \(4, 5\), expected \(4,\)"),
        ({"dt": None}, r"A has shape \(4,\), expected \(2, 7, 4\)"),
        ({"C": torch.zeros(2, 7, 2, 5)}, r"C has shape .*, expected \(2, 7, 1, 5\)"),
        ({"B": torch.zeros(2, 7, 3, 5), "C": torch.zeros(2, 7, 3, 5)}, "3 groups do not divide 4 heads"),
        ({"D": torch.zeros(1)}, r"D has shape \(1,\), expected \(4,\)"),
        ({"x": torch.zeros(2, 7, 24)}, "x has shape"),
        ({"initial_state": torch.zeros(2, 4, 5, 6)}, r"expected \(2, 4, 6, 5\)"),
        ({"x": torch.zeros(2, 7, 4, 6, dtype=torch.int32)}, "x has dtype torch.int32"),
        ({"D": torch.zeros(4, device="meta")}, "several devices"),
        ({"chunk": -1}, "chunk -1, expected at least 1"),
        ({"backend": "triton"}, "'triton', expected one of"),
    ],
)
def test_wrong_inputs_are_named(change, message):
    arguments = make(7, None) | change
    with pytest.raises(ValueError, match=message):
        ssd(**arguments)


def test_wrong_inputs_of_ssd_noncausal_are_named():
    with pytest.raises(ValueError, match=r"ssd_noncausal: dt has shape \(2, 7, 3\)"):
        ssd_noncausal(**image(make(7, None)) | {"dt": torch.zeros(2, 7, 3)})
    with pytest.raises(ValueError, match="ssd_noncausal: backend is 'native'"):
        ssd_noncausal(**image(make(7, None)), backend="native")
