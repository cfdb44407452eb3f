import importlib.util

import pytest
import torch

from geovit.core.native import native_status
from geovit.core.ops.selective_scan import CROSS_2D, CROSS_3D, choose_backend, scan_orders, selective_scan

LOADED, REASON = native_status()
BACKENDS = ["eager", pytest.param("native", marks=pytest.mark.skipif(not LOADED, reason=REASON))]


def make(batch, length, dim, states, *, routes=0, groups=0, own=False, extras=True, dtype=torch.float32):
    """Arguments by name. Step sizes are positive only with softplus."""
    generator = torch.Generator().manual_seed(length * dim + states)
    route, group = [routes] if routes else [], [groups] if groups else []
    shapes = {
        "u": [batch, length, *(route if own else []), dim],
        "dt": [batch, length, *route, dim],
        "A": [*route, dim, states],
        "B": [batch, length, *route, *group, states],
        "C": [batch, length, *route, *group, states],
    }
    if extras:
        shapes |= {"D": [*route, dim], "z": [batch, length, dim], "dt_bias": [*route, dim]}
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    tensors["A"] = -2 * tensors["A"].abs()
    arguments = {name: x.to(dtype).requires_grad_() for name, x in tensors.items()}
    if routes:
        arguments["orders"] = torch.stack([torch.randperm(length, generator=generator) for _ in range(routes)])
    return arguments


def results(arguments, backend, dtype=None, **options):
    """Output, state if there are no orders, and every gradient, by name."""
    inputs = {name: x.detach().to(dtype or x.dtype) if x.is_floating_point() else x for name, x in arguments.items()}
    leaves = {name: x.requires_grad_() for name, x in inputs.items() if x.is_floating_point()}
    out = selective_scan(**inputs, softplus=True, return_state="orders" not in inputs, backend=backend, **options)
    out = dict(zip(("y", "state"), out if isinstance(out, tuple) else (out,), strict=False))
    weights = [torch.linspace(-1, 2, x.numel(), dtype=torch.float64).view(x.shape).to(x.dtype) for x in out.values()]
    grads = torch.autograd.grad(list(out.values()), list(leaves.values()), weights)
    return {name: x.detach() for name, x in out.items()} | {f"d{name}": x for name, x in zip(leaves, grads, strict=True)}


def assert_close(got, want, forward=1e-5, backward=1e-4):
    assert got.keys() == want.keys()
    for name, right in want.items():
        tolerance = backward if name.startswith("d") else forward
        assert got[name].shape == right.shape, name
        assert (got[name] - right).abs().max() <= tolerance * right.abs().max(), name  # false for NaN


CASES = [
    {"batch": 1, "length": 1, "dim": 1, "states": 1},
    {"batch": 2, "length": 7, "dim": 7, "states": 3, "groups": 7},
    {"batch": 1, "length": 63, "dim": 64, "states": 16},
    {"batch": 2, "length": 64, "dim": 63, "states": 8, "groups": 3},
    {"batch": 1, "length": 65, "dim": 65, "states": 5, "extras": False},
    {"batch": 1, "length": 33, "dim": 100, "states": 24, "groups": 2},  # several blocks of channels in a group
    {"batch": 1, "length": 31, "dim": 4, "states": 64},
    {"batch": 9, "length": 3, "dim": 40, "states": 4},
    {"batch": 2, "length": 35, "dim": 24, "states": 16, "routes": 4},
    {"batch": 1, "length": 64, "dim": 32, "states": 1, "routes": 4, "groups": 2, "own": True},
    {"batch": 1, "length": 9, "dim": 17, "states": 2, "routes": 1, "extras": False},
    {"batch": 1, "length": 32, "dim": 20, "states": 9, "routes": 2, "own": True, "extras": False},
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_output_and_every_gradient_agree_with_the_reference(backend, case):
    arguments = make(**case)
    want = results(arguments, "reference", torch.float64)
    assert_close(results(arguments, backend), want)
    if backend == "eager":
        assert_close(results(arguments, backend, torch.float64), want, 1e-12, 1e-12)


def test_reference_is_differentiated_correctly():
    arguments = make(1, 4, 4, 2, routes=2, groups=2, dtype=torch.float64)
    names = [name for name in arguments if name != "orders"]

    def scan(*tensors):
        return selective_scan(
            **dict(zip(names, tensors, strict=True)), orders=arguments["orders"], softplus=True, backend="reference"
        )

    assert torch.autograd.gradcheck(scan, [arguments[name] for name in names])


def test_reference_is_the_closed_form_of_a_constant_system():
    # With constant inputs h is a geometric sum: h_t = x (1 - a^t) / (1 - a), x = dt B u.
    u, dt, A = torch.full((1, 9, 1), 3.0), torch.full((1, 9, 1), 0.5), torch.tensor([[-1.0, -0.25]])
    B, C = torch.tensor([2.0, -1.0]).expand(1, 9, 2), torch.tensor([1.0, 4.0]).expand(1, 9, 2)
    a, t = torch.exp(0.5 * A[0]), torch.arange(1, 10)[:, None]
    want = (0.5 * 3 * B[0] * (1 - a**t) / (1 - a) * C[0]).sum(-1)
    torch.testing.assert_close(selective_scan(u, dt, A, B, C, backend="reference")[0, :, 0], want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_routes_are_scans_of_rearranged_images(backend):
    arguments = make(2, 12, 8, 4, routes=4, extras=False)
    orders = arguments["orders"] = scan_orders((3, 4), CROSS_2D)
    want = 0
    for route, order in enumerate(orders):
        one = {name: arguments[name][:, order] for name in ("u", "dt", "B", "C")}
        one |= {name: one[name][:, :, route] for name in ("dt", "B", "C")} | {"A": arguments["A"][route]}
        want = want + selective_scan(**one, softplus=True, backend="reference")[:, order.argsort()]
    torch.testing.assert_close(selective_scan(**arguments, softplus=True, backend=backend), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strides_do_not_matter(backend):
    arguments = make(2, 20, 24, 4, routes=2)
    scrambled = {
        name: x if x.ndim < 3 else torch.stack([x.detach(), x.detach()], -1).transpose(0, -2)[..., 1].transpose(0, -1)
        for name, x in arguments.items()
    }
    assert not any(x.is_contiguous() for name, x in scrambled.items() if x.ndim > 2)
    assert_close(results(scrambled, backend), results(arguments, backend), 1e-6, 1e-6)
    wide = torch.randn(2, 20, 48)
    halves = arguments | {"u": wide[..., :24], "z": wide[..., 24:]}  # as a projection is split, rows with gaps
    whole = arguments | {"u": wide[..., :24].contiguous(), "z": wide[..., 24:].contiguous()}
    assert_close(results(halves, backend), results(whole, backend), 1e-6, 1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_the_float32_result_rounded(backend, dtype):
    arguments = make(1, 40, 16, 4, dtype=dtype)
    got, want = (results(arguments, backend, kind) for kind in (None, torch.float32))
    assert got["y"].dtype == got["du"].dtype == dtype
    assert got["state"].dtype == torch.float32
    assert torch.equal(got["y"], want["y"].to(dtype))
    # The weights of the sum are rounded too, so gradients differ by more than a rounding.
    assert_close({name: x.float() for name, x in got.items()}, want, 1e-2, 1e-2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strong_decay_and_growth_are_no_garbage(backend):
    # exp(dt A) from below the smallest float to 2^28 at each step; the states stay finite.
    arguments = make(1, 5, 18, 4, extras=False)
    arguments["dt"] = torch.rand(1, 5, 18).mul(8).add(1)
    for scale in (-3e5, -80, -1e-4, 2):
        given = arguments | {"A": torch.full((18, 4), float(scale))}
        want = results(given, "reference", torch.float64)
        got = results(given, backend)
        assert_close({"y": got["y"], "state": got["state"]}, {"y": want["y"], "state": want["state"]})


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
@pytest.mark.parametrize("name", ["u", "dt", "A", "B", "C"])
def test_nan_is_not_swallowed(backend, name):
    arguments = {key: x.detach() for key, x in make(1, 40, 20, 4, extras=False).items()}
    arguments[name][(0,) * arguments[name].ndim] = torch.nan
    assert selective_scan(**arguments, softplus=True, backend=backend)[0, :, 0].isnan().any()


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
@pytest.mark.parametrize("routes", [0, 2])
def test_compiles_as_one_graph(backend, routes):
    arguments = make(1, 40, 8, 4, routes=routes)
    leaves = [x for x in arguments.values() if x.is_floating_point()]
    compiled = torch.compile(
        lambda **given: selective_scan(**given, softplus=True, backend=backend).square().sum(),
        fullgraph=True,
        backend="aot_eager",
    )
    got = torch.autograd.grad(compiled(**arguments), leaves)
    want = torch.autograd.grad(selective_scan(**arguments, softplus=True, backend="reference").square().sum(), leaves)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-3)


def test_auto_takes_native_for_what_it_serves_and_eager_else():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert choose_backend(cpu, dtype)[0] == ("native" if LOADED else "eager")
    assert choose_backend(cpu, torch.float64) == ("eager", "the compiled kernel has no torch.float64")
    assert choose_backend(cuda, torch.float32)[0] == ("triton" if importlib.util.find_spec("triton") else "eager")
    assert choose_backend(cuda, torch.float64)[0] == "eager"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"u": torch.zeros(2, 8, 5)}, r"u has shape \[2, 8, 5\], allowed is \[2, 8, 6\]"),
        ({"dt": torch.zeros(8, 6)}, r"dt has shape \[8, 6\], allowed is \(B, L, D\)"),
        ({"dt": torch.zeros(2, 0, 6)}, r"dt has shape \[2, 0, 6\], allowed is \(B, L, D\), none of them zero"),
        ({"A": torch.zeros(5, 3)}, r"A has shape \[5, 3\]|u has shape"),
        ({"B": torch.zeros(2, 8, 4, 3)}, "B has 4 groups, allowed are divisors of the 6 channels|C has shape"),
        ({"C": torch.zeros(2, 8, 4)}, r"C has shape \[2, 8, 4\], allowed is \[2, 8, 3\] or \[2, 8, 1, 3\]"),
        ({"D": torch.zeros(3)}, r"D has shape \[3\], allowed is \[6\]"),
        ({"z": torch.zeros(2, 8, 1)}, r"z has shape \[2, 8, 1\]"),
        ({"dt_bias": torch.zeros(1, 6)}, r"dt_bias has shape \[1, 6\]"),
        ({"u": torch.zeros(2, 8, 6, dtype=torch.int64)}, "u is torch.int64, allowed are floating dtypes"),
        ({"z": torch.zeros(2, 8, 6, device="meta")}, "z is on meta, but u is on cpu"),
        ({"backend": "cuda"}, "backend is 'cuda', allowed are auto, reference, eager, native, triton"),
        (
            {"backend": "native", "D": torch.zeros(6).double()},
            "cannot be used: the compiled kernel has no torch.float64",
        ),
    ],
)
def test_wrong_arguments_are_named(change, told):
    fine = {"u": (2, 8, 6), "dt": (2, 8, 6), "A": (6, 3), "B": (2, 8, 3), "C": (2, 8, 3)}
    with pytest.raises(ValueError, match=told):
        selective_scan(**({name: torch.zeros(shape) for name, shape in fine.items()} | change))


@pytest.mark.parametrize(
    ("orders", "told"),
    [
        (torch.tensor([[0, 1, 2], [2, 1, 1]]), r"no permutation of the positions 0\.\.2"),
        (torch.tensor([[0, 1, 2], [3, 1, 0]]), "no permutation"),
        (torch.tensor([[0, 1, 2], [-1, 1, 0]]), "no permutation"),
        (torch.tensor([[0, 1, 2]]), r"orders has shape \[1, 3\], allowed is \[2, 3\]"),
        (torch.zeros(2, 3), "orders is torch.float32 on cpu, allowed are integers on cpu"),
    ],
)
def test_wrong_orders_are_named(orders, told):
    arguments = make(1, 3, 4, 2, routes=2) | {"orders": orders}
    with pytest.raises(ValueError, match=told):
        selective_scan(**arguments)


def test_state_of_several_routes_is_refused():
    with pytest.raises(ValueError, match="return_state is True, allowed with orders is False"):
        selective_scan(**make(1, 3, 4, 2, routes=2), return_state=True)


def test_orders_may_be_of_any_integer_dtype():
    arguments = make(1, 6, 4, 2, routes=2)
    want = selective_scan(**arguments)
    assert torch.equal(selective_scan(**arguments | {"orders": arguments["orders"].to(torch.uint8)}), want)


def test_orders_of_an_image_are_those_drawn_on_paper():
    # 0 1 2
    # 3 4 5
    want = [[0, 1, 2, 3, 4, 5], [0, 3, 1, 4, 2, 5], [5, 4, 3, 2, 1, 0], [5, 2, 4, 1, 3, 0]]
    assert scan_orders((2, 3), CROSS_2D).tolist() == want
    assert scan_orders((2, 3), ("yx", "xy", "reverse", "xy_reverse")).tolist() == want
    assert scan_orders((3,), ("raster", "reverse", "x")).tolist() == [[0, 1, 2], [2, 1, 0], [0, 1, 2]]


def test_orders_of_a_volume_walk_the_last_named_axis_fastest():
    volume = torch.arange(24).view(2, 3, 4)
    for name in ("zyx", "zxy", "yzx", "yxz", "xzy", "xyz"):
        row, back = scan_orders((2, 3, 4), (name, f"{name}_reverse"))
        want = volume.permute(["zyx".index(axis) for axis in name]).flatten()
        assert torch.equal(row, want)
        assert torch.equal(back, want.flip(0))
    rows = scan_orders((2, 3, 4), CROSS_3D)
    assert rows.shape == (6, 24)
    assert len({tuple(row.tolist()) for row in rows}) == 6
    assert (rows.sort(1).values == torch.arange(24)).all()


@pytest.mark.parametrize(
    ("size", "routes", "told"),
    [
        ((2, 3), ("zyx",), "route is 'zyx', allowed for 2 axes are yx, xy, raster, column, reverse, each with _reverse"),
        ((2, 3, 4), ("column",), "route is 'column', allowed for 3 axes"),
        ((2, 0), ("raster",), r"size is \(2, 0\), allowed are one to three axes"),
        ((1, 1, 1, 1), ("raster",), "one to three axes"),
        ((2, 3), (), "routes is empty"),
    ],
)
def test_impossible_orders_are_named(size, routes, told):
    with pytest.raises(ValueError, match=told):
        scan_orders(size, routes)
