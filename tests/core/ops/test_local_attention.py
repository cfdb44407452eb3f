import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from geovit.core.native import native_status
from geovit.core.ops.local_attention import (
    FlatWindows,
    Grid,
    Neighborhood,
    Window,
    eager,
    grid,
    local_attention,
    neighborhood,
    windows,
)

# Every rule, every kind of border, images smaller than the window, mixtures of rules, 1 to 3 axes
PATTERNS = {
    "window": ((13, 9), windows((4, 3))),
    "shifted": ((7, 10), windows((4, 4), shift=(2, 1))),
    "larger than the image": ((3, 3), windows((7, 7), shift=(3, 5))),
    "volume": ((5, 3, 7), windows((2, 3, 4), shift=(1, 0, 3))),
    "stripe": ((6, 9), windows((6, 2), shift=(0, 1))),
    "dilated": ((11, 7), (Window(3, 4, 2), Window(2, 0, 3))),
    "overlap": ((7, 9), windows((4, 4), overlap=2)),
    "grid": ((7, 9), grid((3, 4))),
    "neighborhood": ((9, 13), neighborhood((3, 5), dilation=(2, 1))),
    "causal": ((10,), neighborhood((4,), dilation=(2,), causal=(True,))),
    "neighborhood in a volume": ((4, 3, 5), neighborhood((3, 1, 5))),
    "mixture": ((7, 8, 5), (Window(4, 1), Neighborhood(3, tile=3), Grid(2))),
    "cut windows": ((3 * 5,), (FlatWindows((3, 5), (2, 7), (1, 3)),)),
    "cut windows in a volume": ((60,), (FlatWindows((5, 4, 3), (3, 3, 4), (1, 1, 2)),)),
    "one cut window": ((30,), (FlatWindows((2, 3, 5), (3, 4, 5), (1, 2, 2)),)),
}
# Which tensors there are beside q, k, v, and options
VARIANTS = {
    "bias": ({"bias"}, {}),
    "bias and padding": ({"bias", "padding"}, {}),
    "padding, cosine, scale": ({"padding", "scale"}, {"cosine": True}),
    "sigmoid, bias, padding, scale": ({"bias", "padding", "scale"}, {"activation": "sigmoid"}),
    "sigmoid, padding, cosine": ({"padding"}, {"activation": "sigmoid", "cosine": True, "scale": 2.0}),
}


def make(size, pattern, *, extra=("bias",), heads=2, head_dim=5, batch=2, dtype=torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    inputs = {name: normal(batch, *size, heads, head_dim) for name in "qkv"}
    if "bias" in extra:
        inputs["bias_table"] = normal(math.prod(axis.rows for axis in pattern), heads)
    if "padding" in extra:
        inputs |= {name: normal(heads, head_dim) for name in ("k_pad", "v_pad")}
    if "scale" in extra:
        inputs["scale"] = normal(heads)
    return inputs


def run(inputs: dict[str, Tensor], pattern, **options) -> Tensor:
    inputs = dict(inputs)
    padding = (inputs.pop("k_pad"), inputs.pop("v_pad")) if "k_pad" in inputs else None
    return local_attention(inputs.pop("q"), inputs.pop("k"), inputs.pop("v"), pattern, **inputs, padding=padding, **options)


def run_with_gradients(inputs: dict[str, Tensor], pattern, **options) -> dict[str, Tensor | None]:
    out = run(inputs, pattern, **options)
    grads = torch.autograd.grad((out.sin() + out.square()).sum(), list(inputs.values()), allow_unused=True)
    return {"out": out.detach(), **dict(zip(inputs, grads, strict=True))}


def assert_same(actual: dict[str, Tensor | None], expected: dict[str, Tensor | None], tolerance: float = 1e-10) -> None:
    for name, (a, b) in {name: (actual[name], expected[name]) for name in expected}.items():
        if a is None or b is None:  # a backend may leave out what cannot matter
            assert all(x is None or not x.any() for x in (a, b)), name
        else:
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


BACKENDS = ["eager", "native"] if native_status()[0] else ["eager"]


def assert_near(inputs: dict[str, Tensor], pattern, **options) -> None:
    """The output of float32 lies within 1e-5 of the float64 reference, gradients within 1e-4, of the largest entry."""
    exact = {name: t.detach().double().requires_grad_() for name, t in inputs.items()}
    actual = run_with_gradients(inputs, pattern, **options)
    for name, expected in run_with_gradients(exact, pattern, **options | {"backend": "reference"}).items():
        if actual[name] is None or expected is None:  # a backend may leave out what cannot matter
            assert all(x is None or not x.any() for x in (actual[name], expected)), name
            continue
        worst, largest = (actual[name].double() - expected).abs().max(), expected.abs().max()
        assert worst <= (1e-5 if name == "out" else 1e-4) * largest, f"{name}: off by {worst:.1e} of {largest:.1e}"


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", PATTERNS)
def test_eager_agrees_with_the_reference_in_output_and_gradients(name, variant):
    (size, pattern), (extra, options) = PATTERNS[name], VARIANTS[variant]
    inputs = make(size, pattern, extra=extra)
    expected = run_with_gradients(inputs, pattern, **options, backend="reference")
    assert_same(run_with_gradients(inputs, pattern, **options, backend="eager"), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("head_dim", [8, 16, 24, 30, 32, 53, 128])
def test_any_head_width(head_dim, backend):
    pattern = windows((4, 4), shift=(1, 3))
    assert_near(
        make((9, 10), pattern, extra={"bias", "padding"}, head_dim=head_dim, dtype=torch.float32), pattern, backend=backend
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [1, 7, 63, 64, 65])
@pytest.mark.parametrize("pattern", [windows((8,), shift=(3,)), grid((8,)), neighborhood((7,), causal=(True,))])
def test_any_size(size, pattern, backend):
    assert_near(make((size,), pattern, head_dim=16, dtype=torch.float32), pattern, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PATTERNS)
def test_backends_serve_every_pattern_in_float32(name, backend):
    size, pattern = PATTERNS[name]
    extra, options = VARIANTS["sigmoid, bias, padding, scale" if name in ("dilated", "grid") else "bias and padding"]
    assert_near(make(size, pattern, extra=extra, dtype=torch.float32), pattern, **options, backend=backend)


@pytest.mark.parametrize(
    ("size", "window", "shift"), [((8, 12), (4, 4), (2, 2)), ((6, 6), (3, 2), (1, 1)), ((4, 6, 4), (2, 3, 4), (1, 0, 3))]
)
@pytest.mark.parametrize("backend", ["reference", "eager"])
def test_equals_rolled_and_masked_windows_where_the_window_divides_the_size(size, window, shift, backend):
    pattern = windows(window, shift=shift)
    inputs = make(size, pattern)
    torch.testing.assert_close(run(inputs, pattern, backend=backend), rolled(**inputs, window=window, shift=shift))


@pytest.mark.parametrize(
    ("size", "window", "shift"), [((7, 10), (4, 4), (2, 2)), ((9, 3), (4, 7), (0, 0)), ((3, 5, 5), (2, 3, 4), (1, 0, 3))]
)
@pytest.mark.parametrize("backend", ["reference", "eager"])
def test_padding_equals_constant_tokens_at_the_end_of_each_axis(size, window, shift, backend):
    pattern = windows(window, shift=shift)
    inputs = make(size, pattern, extra={"bias", "padding"})
    k_pad, v_pad = inputs["k_pad"], inputs["v_pad"]
    end = [0, 0, 0, 0] + [p for n, w in zip(reversed(size), reversed(window), strict=True) for p in (0, -n % w)]
    inside = F.pad(torch.ones_like(inputs["q"]), end).bool()
    q, k, v = (torch.where(inside, F.pad(inputs[name], end), pad) for name, pad in zip("qkv", (k_pad, k_pad, v_pad), strict=True))
    expected = rolled(q, k, v, inputs["bias_table"], window=window, shift=shift)
    expected = expected[(slice(None), *(slice(n) for n in size))]
    torch.testing.assert_close(run(inputs, pattern, backend=backend), expected)


def rolled(q, k, v, bias_table, *, window, shift) -> Tensor:
    """Swin as published: roll, cut into windows, mask by regions, attend, put together, roll back."""
    size, axes = q.shape[1:-2], tuple(range(1, 1 + len(window)))
    regions = torch.zeros(size)
    cuts = [
        (slice(0, n - w), slice(n - w, n - s), slice(n - s, n)) if s else (slice(None),)
        for n, w, s in zip(size, window, shift, strict=True)
    ]
    for number, region in enumerate(itertools.product(*cuts)):
        regions[region] = number

    def cut(x: Tensor) -> Tensor:
        for axis, (n, w) in enumerate(zip(size, window, strict=True)):
            x = x.unflatten(1 + 2 * axis, (n // w, w))
        odd, even = range(1, 2 * len(window), 2), range(2, 2 * len(window) + 1, 2)
        return x.permute(0, *odd, *even, -2, -1).flatten(-2 - len(window), -3).flatten(0, len(window))

    q, k, v = (cut(x.roll([-s for s in shift], axes)).transpose(1, 2) for x in (q, k, v))
    region = cut(regions[None, ..., None, None]).squeeze(-1)
    mask = torch.where(region == region.mT, 0.0, -torch.inf).double()

    points = torch.stack(torch.meshgrid(*map(torch.arange, window), indexing="ij"), -1).flatten(0, -2)
    offsets = points[:, None] - points + torch.tensor(window) - 1
    rows = offsets[..., 0]
    for axis in range(1, len(window)):
        rows = rows * (2 * window[axis] - 1) + offsets[..., axis]
    scores = q @ k.mT * q.shape[-1] ** -0.5 + bias_table[rows].permute(2, 0, 1)
    scores = scores.unflatten(0, (-1, len(mask))) + mask[:, None]
    out = (scores.softmax(-1) @ v.unflatten(0, (-1, len(mask)))).flatten(0, 1).transpose(1, 2)

    out = out.unflatten(1, window).unflatten(0, (-1, *(n // w for n, w in zip(size, window, strict=True))))
    order = [x for axis in range(len(window)) for x in (1 + axis, 1 + len(window) + axis)]
    out = out.permute(0, *order, -2, -1).reshape(-1, *size, *out.shape[-2:])
    return out.roll(shift, axes)


@pytest.mark.parametrize("backend", ["reference", "eager"])
def test_overlap_with_zero_padding_equals_unfolded_windows(backend):
    """HAT's OCAB: keys are cut by `unfold` with zeros around the image, which are seen (Chen et al. 2023, section 3.2)."""
    size, w, o = (8, 12), 4, 2
    pattern = windows((w, w), overlap=o)
    inputs = make(size, pattern)
    q, k, v, table = inputs.values()
    cut_q = q.unflatten(2, (-1, w)).unflatten(1, (-1, w)).movedim(3, 2).flatten(3, 4).flatten(0, 2).transpose(1, 2)
    cut_k, cut_v = (
        F.unfold(t.flatten(3).movedim(3, 1), w + 2 * o, stride=w, padding=o)
        .unflatten(1, (2, 5, -1))
        .permute(0, 4, 1, 3, 2)
        .flatten(0, 1)
        for t in (k, v)
    )
    points_q, points_k = (torch.cartesian_prod(*[torch.arange(low, high)] * 2) for low, high in ((0, w), (-o, w + o)))
    offsets = points_q[:, None] - points_k + w + o - 1
    bias = table[offsets[..., 0] * (2 * (w + o) - 1) + offsets[..., 1]].permute(2, 0, 1)
    out = (cut_q @ cut_k.mT * 5**-0.5 + bias).softmax(-1) @ cut_v
    out = out.transpose(1, 2).unflatten(1, (w, w)).unflatten(0, (2, 2, 3)).movedim(3, 2).flatten(3, 4).flatten(1, 2)
    zeros = torch.zeros(2, 5, dtype=torch.float64)
    torch.testing.assert_close(run(inputs | {"k_pad": zeros, "v_pad": zeros}, pattern, backend=backend), out)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("pattern", [windows((2, 2), shift=(1, 0)), (Neighborhood(3), Window(2))])
def test_derivatives_of_first_and_second_order(variant, pattern):
    extra, options = VARIANTS[variant]
    inputs = make((3, 3), pattern, extra=extra, heads=1, head_dim=2, batch=1)

    def function(*values: Tensor) -> Tensor:
        return run(dict(zip(inputs, values, strict=True)), pattern, **options)

    assert torch.autograd.gradcheck(function, list(inputs.values()), fast_mode=True)
    if (
        "bias" in extra or "activation" in options
    ):  # PyTorch's fused kernels, which serve a constant bias, cannot be differentiated twice
        assert torch.autograd.gradgradcheck(function, list(inputs.values()), fast_mode=True)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_bfloat16_stays_near_float64(activation):
    pattern = windows((4, 4), shift=(2, 2))
    inputs = make((9, 13), pattern, extra={"bias", "padding", "scale"}, head_dim=24, dtype=torch.bfloat16)
    exact = {name: t.detach().double().requires_grad_() for name, t in inputs.items()}
    options = {"activation": activation, "cosine": True}
    actual = run_with_gradients(inputs, pattern, **options, backend="eager")
    assert all(t is not None and t.dtype == torch.bfloat16 for t in actual.values())
    for name, expected in run_with_gradients(exact, pattern, **options, backend="reference").items():
        assert (actual[name].double() - expected).abs().max() < 0.05 * expected.abs().max(), name


@pytest.mark.parametrize("variant", ["bias and padding", "padding, cosine, scale", "sigmoid, bias, padding, scale"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_does_not_change_the_precision(variant, backend):
    (size, pattern), (extra, options) = PATTERNS["shifted"], VARIANTS[variant]
    options = options | {"backend": backend}
    inputs = make(size, pattern, extra=extra, dtype=torch.float32)
    expected = run_with_gradients(inputs, pattern, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(run_with_gradients(inputs, pattern, **options), expected, tolerance=0)
        exact = run(inputs, pattern, **options | {"backend": "reference"})
    assert torch.equal(exact, run(inputs, pattern, **options | {"backend": "reference"}))


def test_strided_inputs():
    pattern = windows((4, 4), shift=(2, 2))
    inputs = make((9, 10), pattern)
    expected = run_with_gradients(inputs, pattern)
    packed = torch.stack([inputs[name].detach() for name in "qkv"], dim=1).movedim(1, -1).requires_grad_()
    out = local_attention(*packed.unbind(-1), pattern, bias_table=inputs["bias_table"])
    (grad,) = torch.autograd.grad((out.sin() + out.square()).sum(), packed)
    assert_same({"out": out, **dict(zip("qkv", grad.unbind(-1), strict=True))}, {k: expected[k] for k in ("out", "q", "k", "v")})


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_work_in_portions_is_the_same_work(monkeypatch, activation):
    pattern = windows((4, 4), shift=(2, 2))
    inputs = make((9, 10), pattern, extra={"bias", "padding"})
    whole = run_with_gradients(inputs, pattern, activation=activation)
    monkeypatch.setattr(eager, "_SCORES", 100)
    monkeypatch.setattr(eager, "_FUSED_TILES", 3)
    assert_same(run_with_gradients(inputs, pattern, activation=activation), whole)


def test_tiles_of_a_neighbourhood_change_nothing():
    one, other = (tuple(Neighborhood(5, tile=tile) for _ in range(2)) for tile in (1, 4))
    inputs = make((9, 11), one)
    assert_same(run_with_gradients(inputs, one), run_with_gradients(inputs, other))


def test_nothing_of_another_window_leaks_in():
    pattern = windows((4, 4), shift=(1, 1))
    inputs = {name: t.detach() for name, t in make((10, 10), pattern).items()}
    clean = run(inputs, pattern)
    for name in "qkv":
        inputs[name][:, 1:5, 5:9] = torch.nan
    poisoned = run(inputs, pattern)
    assert poisoned[:, 1:5, 5:9].isnan().all()
    clean[:, 1:5, 5:9] = torch.nan
    torch.testing.assert_close(poisoned, clean, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_runs_are_equal_to_the_last_bit(backend):
    (size, pattern), (extra, _) = PATTERNS["overlap"], VARIANTS["bias and padding"]
    options = {"backend": backend}
    inputs = make(size, pattern, extra=extra, dtype=torch.float32)
    assert_same(run_with_gradients(inputs, pattern, **options), run_with_gradients(inputs, pattern, **options), tolerance=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_inference_leaves_in_caches_serves_training(backend):
    pattern = windows((3, 5), shift=(1, 4))  # of no other test
    inputs = make((6, 11), pattern, dtype=torch.float32)
    with torch.inference_mode():
        run(inputs, pattern, backend=backend)
    assert_near(inputs, pattern, backend=backend)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_no_scores_are_kept_for_the_backward_pass(activation):
    pattern = windows((16, 16), shift=(8, 8))
    inputs = make((32, 32), pattern, batch=8, head_dim=4, dtype=torch.float32)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        run(inputs, pattern, activation=activation, backend="eager")
    scores = 8 * 2 * 32 * 32 * 16 * 16
    assert sum(t.numel() for t in kept if t.is_floating_point()) < scores / 4


@pytest.mark.parametrize(
    ("backend", "size", "pattern", "variant"),
    [
        ("aot_eager", (9,), neighborhood((3,), dilation=(2,)), "bias"),
        ("aot_eager", (5, 3), windows((4, 3), overlap=1), "sigmoid, bias, padding, scale"),
        ("inductor", (3, 3), windows((4, 3)), "bias and padding"),
    ],
)
def test_compiles_as_one_graph(backend, size, pattern, variant):
    extra, options = VARIANTS[variant]
    inputs = make(size, pattern, extra=extra)
    compiled = torch.compile(run, fullgraph=True, backend=backend)
    out = compiled(inputs, pattern, **options)
    grads = torch.autograd.grad((out.sin() + out.square()).sum(), list(inputs.values()))
    assert_same({"out": out, **dict(zip(inputs, grads, strict=True))}, run_with_gradients(inputs, pattern, **options))


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
@pytest.mark.parametrize("shape", [(0, 4, 5, 2, 3), (2, 4, 5, 0, 3), (2, 4, 5, 2, 0)])
def test_no_images_no_heads_or_no_width_give_an_empty_result(shape, backend):
    x = torch.zeros(shape)
    assert local_attention(x, x, x, windows((2, 2)), backend=backend).shape == shape


@pytest.mark.parametrize("size", [(0, 5), (4, 0)])
@pytest.mark.parametrize("pattern", [windows((4, 4), shift=(2, 2)), neighborhood((3, 3))])
def test_an_empty_image_gives_an_empty_result(size, pattern):
    assert run(make(size, pattern), pattern).shape == (2, *size, 2, 5)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"k": torch.zeros(2, 4, 5, 2, 5)}, {}, r"\[2, 4, 5, 2, 5\]"),
        ({"v": torch.zeros(2, 4, 4, 2, 5)}, {}, "torch.float32 on cpu, expected one floating"),
        ({"k": torch.zeros(2, 4, 4, 2, 5, dtype=torch.float64, device="meta")}, {}, "on meta"),
        ({name: torch.zeros(2, 4, 4, 2, 5, dtype=torch.int64) for name in "qkv"}, {}, "int64"),
        ({name: torch.zeros(2, 2, 5) for name in "qkv"}, {}, r"\[2, 2, 5\]"),
        ({}, {"pattern": windows((4,))}, "expected a tuple of 2 rules"),
        ({}, {"pattern": (4, 4)}, r"pattern is \(4, 4\)"),
        ({}, {"pattern": neighborhood((3, 5))}, "has 4 positions, expected at least 5"),
        ({"bias_table": torch.zeros(16, 2)}, {}, r"bias_table is \[16, 2\].*expected a floating \[49, 2\]"),
        ({"bias_table": torch.zeros(49, 2, device="meta")}, {}, "on meta, expected a floating .* on cpu"),
        ({"k_pad": torch.zeros(2, 5), "v_pad": torch.zeros(2, 4)}, {}, r"value is \[2, 4\].*expected a floating \[2, 5\]"),
        ({"scale": torch.zeros(3)}, {}, r"scale is \[3\].*expected a floating \[2\]"),
        ({}, {"activation": "relu"}, "'relu', allowed are softmax, sigmoid"),
        ({}, {"backend": "cuda"}, "'cuda', allowed are auto, reference, eager, native, triton"),
    ],
)
def test_wrong_input_is_named(change, options, message):
    with pytest.raises(ValueError, match=message):
        run(make((4, 4), windows((4, 4))) | change, **({"pattern": windows((4, 4))} | options))


def test_shapes_without_numbers():
    x = torch.empty(2, 9, 10, 3, 8, device="meta")
    assert local_attention(x, x, x, windows((4, 4))).shape == x.shape


def test_dropout_sets_weights_to_zero_and_keeps_their_mean():
    pattern = windows((4, 4), shift=(1, 2))
    inputs = make((8, 8), pattern, batch=1, dtype=torch.float32)
    torch.manual_seed(0)
    want = run(inputs, pattern)
    found = torch.stack([run(inputs, pattern, dropout=0.25).detach() for _ in range(400)])
    assert (found[0] - want).abs().max() > 0.05
    assert (found.mean(0) - want).abs().mean() < 0.05 * want.abs().mean()
    run(inputs, pattern, dropout=0.25).sum().backward()
    assert all(torch.isfinite(t.grad).all() for t in inputs.values())
    with pytest.raises(ValueError, match="dropout is 0.25 with backend 'native', expected"):
        run(inputs, pattern, dropout=0.25, backend="native")
