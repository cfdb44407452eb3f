import pytest
import torch
from torch import Tensor

from geovit.core.ops.selective_scan import CROSS_2D, scan_orders, selective_scan
from geovit.core.ops.selective_scan import triton as kernels

CHUNK = 4


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch):
    monkeypatch.setattr(kernels, "CHUNK", CHUNK)  # the interpreter is slow, and only borders are of interest


def make(
    length, dim, states, *, batch=1, routes=None, groups=None, own_u=False, optional=("D", "z", "dt_bias"), dtype=torch.float32
) -> dict[str, Tensor]:
    """Inputs whose gradients are all wanted; ``routes`` and ``groups`` None leave their axes out."""
    generator = torch.Generator().manual_seed(0)
    route, group = [[] if n is None else [n] for n in (routes, groups)]
    shapes = {
        "u": (batch, length, *(route if own_u else []), dim),
        "dt": (batch, length, *route, dim),
        "A": (*route, dim, states),
        "B": (batch, length, *route, *group, states),
        "C": (batch, length, *route, *group, states),
        "D": (*route, dim),
        "z": (batch, length, dim),
        "dt_bias": (*route, dim),
    }
    inputs = {name: torch.randn(s, generator=generator) for name, s in shapes.items() if name in (*"uABC", "dt", *optional)}
    inputs["A"] = -inputs["A"].exp()
    inputs["dt"] = inputs["dt"].exp() / 4  # positive, for scans without softplus
    return {name: x.to(dtype) for name, x in inputs.items()}


def results(inputs: dict[str, Tensor], backend: str, **options) -> dict[str, Tensor]:
    leaves = {name: x.detach().clone().requires_grad_() for name, x in inputs.items()}
    out = selective_scan(**leaves, **options, backend=backend)
    y, *state = out if options.get("return_state") else (out,)
    weights = [torch.linspace(-1, 2, x.numel()).half().view(x.shape).to(x.dtype) for x in (y, *state)]
    grads = torch.autograd.grad((y, *state), list(leaves.values()), weights)
    outputs = dict(zip(("y", "state"), (x.detach() for x in (y, *state)), strict=False))
    return outputs | dict(zip(leaves, grads, strict=True))


def assert_agrees(inputs: dict[str, Tensor], forward: float = 1e-5, backward: float = 1e-4, **options) -> None:
    got = results(inputs, "triton", **options)
    want = results({name: x.double() for name, x in inputs.items()}, "reference", **options)
    for name in want:
        assert got[name].dtype == inputs["u"].dtype
        off, largest = (float(x.abs().max()) for x in (got[name].double() - want[name], want[name]))
        allowed = forward if name in ("y", "state") else backward
        assert off <= allowed * largest, f"{name} is off by {off:.1e}, the largest entry is {largest:.1e}"


@pytest.mark.parametrize("length", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 1])
def test_lengths_around_the_borders_of_chunks(length):
    assert_agrees(make(length, 5, 4), softplus=True, return_state=True)


@pytest.mark.parametrize("states", [1, 3, 16, 64])
def test_numbers_of_states(states):
    assert_agrees(make(5, 3, states, batch=2), softplus=True)


@pytest.mark.parametrize("dim", [1, 31, 33])
def test_channels_around_the_width_of_a_block(dim):
    assert_agrees(make(3, dim, 2), softplus=True)


@pytest.mark.parametrize(
    ("optional", "softplus"), [((), False), (("D",), False), (("z",), False), (("dt_bias",), False), ((), True)]
)
def test_options_one_by_one(optional, softplus):
    assert_agrees(make(3, 3, 2, optional=optional), softplus=softplus)


def test_groups_of_channels_have_their_own_projections():
    assert_agrees(make(5, 6, 2, groups=3))


@pytest.mark.parametrize("own_u", [False, True])
def test_routes_through_an_image_add_up(own_u):
    inputs = make(6, 3, 2, batch=2, routes=4, groups=1, own_u=own_u)
    assert_agrees(inputs, softplus=True, orders=scan_orders((2, 3), CROSS_2D))


def test_a_single_route_backwards():
    assert_agrees(make(6, 3, 2, routes=1), orders=scan_orders((6,), ("reverse",)))


@pytest.mark.parametrize("shift", [-40.0, -17.0, 0.0, 25.0])
def test_small_and_large_steps_through_softplus(shift):
    inputs = make(3, 4, 2, optional=())
    inputs["dt"] = inputs["dt"] + shift
    assert_agrees(inputs, softplus=True)


def test_half_precision_is_converted_on_load():
    inputs = make(5, 6, 4, routes=2, dtype=torch.float16)
    assert_agrees(inputs, forward=1e-3, backward=1e-3, softplus=True, orders=scan_orders((5,), ("raster", "reverse")))


def test_a_half_precision_gate_does_not_round_the_result_to_its_own():
    inputs = make(3, 4, 2)
    inputs["z"] = inputs["z"].half()
    got = selective_scan(**inputs, backend="triton")
    torch.testing.assert_close(got, selective_scan(**inputs, backend="reference"), rtol=1e-5, atol=1e-5)


def test_strides_do_not_matter():
    inputs = make(5, 4, 3)
    packed = torch.cat([inputs["dt"], inputs["B"], inputs["C"]], dim=-1)
    dt, B, C = packed.split([4, 3, 3], dim=-1)
    moved = {**inputs, "dt": dt, "B": B, "C": C, "u": inputs["u"].mT.contiguous().mT, "A": inputs["A"].t().contiguous().t()}
    want, got = (selective_scan(**x, backend="triton") for x in (inputs, moved))
    torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_ops_are_registered_as_torch_expects():
    inputs = make(5, 4, 3, routes=1, groups=1)
    given = [inputs.get(name) for name in ("u", "dt", "A", "B", "C", "D", "dt_bias")]
    given[0] = given[0].unsqueeze(2)
    orders = scan_orders((5,), ("reverse",))
    torch.library.opcheck(torch.ops.geovit.selective_scan_triton.default, (*given, orders, True, True))
    y, states, last = torch.ops.geovit.selective_scan_triton(*given, orders, True, True)
    torch.library.opcheck(torch.ops.geovit.selective_scan_triton_backward.default, (y, last, *given, orders, states, True))


def test_compiles_as_one_graph():
    inputs = {name: x.requires_grad_() for name, x in make(5, 4, 2).items()}
    compiled = torch.compile(lambda x: selective_scan(**x, backend="triton"), fullgraph=True, backend="aot_eager")
    got = torch.autograd.grad(compiled(inputs).square().sum(), list(inputs.values()))
    want = torch.autograd.grad(selective_scan(**inputs, backend="reference").square().sum(), list(inputs.values()))
    torch.testing.assert_close(got, want)


def test_twice_equal_and_nothing_uninitialised_is_read():
    inputs = make(5, 4, 3, routes=2)
    orders = scan_orders((5,), ("raster", "reverse"))
    want = results(inputs, "triton", orders=orders)
    torch.use_deterministic_algorithms(True)  # and so torch.empty is filled with NaN
    try:
        got = results(inputs, "triton", orders=orders)
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(got, want, rtol=0, atol=0)
