import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from geovit.core.ops.local_attention import eager, local_attention

# size, window: every kind of border on 1 to 3 axes, and images smaller than the window
GRIDS = [
    ((1,), (4,)),
    ((7,), (4,)),
    ((63,), (8,)),
    ((64,), (8,)),
    ((65,), (8,)),
    ((13, 9), (4, 3)),
    ((1, 7), (3, 4)),
    ((3, 3), (7, 7)),
    ((5, 6, 7), (2, 3, 4)),
]


def make(size, window, *, heads=2, head_dim=5, batch=2, bias=True, padding=False, dtype=torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    inputs = {name: normal(batch, *size, heads, head_dim) for name in "qkv"}
    if bias:
        inputs["bias_table"] = normal(math.prod(2 * w - 1 for w in window), heads)
    if padding:
        inputs |= {name: normal(heads, head_dim) for name in ("k_pad", "v_pad")}
    return inputs


def run(inputs: dict[str, Tensor], **options) -> Tensor:
    inputs = dict(inputs)
    padding = (inputs.pop("k_pad"), inputs.pop("v_pad")) if "k_pad" in inputs else None
    return local_attention(**inputs, padding=padding, **options)


def run_with_gradients(inputs: dict[str, Tensor], **options) -> dict[str, Tensor | None]:
    out = run(inputs, **options)
    grads = torch.autograd.grad((out.sin() + out.square()).sum(), list(inputs.values()), allow_unused=True)
    return {"out": out.detach(), **dict(zip(inputs, grads, strict=True))}


def assert_same(actual: dict[str, Tensor | None], expected: dict[str, Tensor | None], tolerance: float = 1e-10) -> None:
    for name, (a, b) in {name: (actual[name], expected[name]) for name in expected}.items():
        if a is None or b is None:  # a backend may leave out what cannot matter
            assert all(x is None or not x.any() for x in (a, b)), name
        else:
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("size", "window"), GRIDS)
def test_eager_agrees_with_the_reference_in_output_and_gradients(size, window, shifted, bias, padding):
    inputs = make(size, window, bias=bias, padding=padding)
    options = {"window": window, "shift": tuple(w // 2 for w in window) if shifted else None}
    expected = run_with_gradients(inputs, **options, backend="reference")
    assert_same(run_with_gradients(inputs, **options, backend="eager"), expected)


@pytest.mark.parametrize("head_dim", [16, 24, 30, 32, 53])
def test_any_head_width(head_dim):
    inputs = make((9, 10), (4, 4), head_dim=head_dim, padding=True)
    options = {"window": (4, 4), "shift": (1, 3), "scale": 0.3}
    assert_same(run_with_gradients(inputs, **options), run_with_gradients(inputs, **options, backend="reference"))


@pytest.mark.parametrize(
    ("size", "window", "shift"), [((8, 12), (4, 4), (2, 2)), ((6, 6), (3, 2), (1, 1)), ((4, 6, 4), (2, 3, 4), (1, 0, 3))]
)
@pytest.mark.parametrize("backend", ["reference", "eager"])
def test_equals_rolled_and_masked_windows_where_the_window_divides_the_size(size, window, shift, backend):
    inputs = make(size, window)
    torch.testing.assert_close(
        run(inputs, window=window, shift=shift, backend=backend), rolled(**inputs, window=window, shift=shift)
    )


@pytest.mark.parametrize(
    ("size", "window", "shift"), [((7, 10), (4, 4), (2, 2)), ((9, 3), (4, 7), (0, 0)), ((3, 5, 5), (2, 3, 4), (1, 0, 3))]
)
@pytest.mark.parametrize("backend", ["reference", "eager"])
def test_padding_equals_constant_tokens_at_the_end_of_each_axis(size, window, shift, backend):
    inputs = make(size, window, padding=True)
    k_pad, v_pad = inputs["k_pad"], inputs["v_pad"]
    end = [0, 0, 0, 0] + [p for n, w in zip(reversed(size), reversed(window), strict=True) for p in (0, -n % w)]
    inside = F.pad(torch.ones_like(inputs["q"]), end).bool()
    q, k, v = (torch.where(inside, F.pad(inputs[name], end), pad) for name, pad in zip("qkv", (k_pad, k_pad, v_pad), strict=True))
    expected = rolled(q, k, v, inputs["bias_table"], window=window, shift=shift)
    expected = expected[(slice(None), *(slice(n) for n in size))]
    torch.testing.assert_close(run(inputs, window=window, shift=shift, backend=backend), expected)


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


@pytest.mark.parametrize(("bias", "padding"), [(True, True), (True, False), (False, True)])
def test_derivatives_of_first_and_second_order(bias, padding):
    inputs = make((2, 3), (2, 2), heads=1, head_dim=2, batch=1, bias=bias, padding=padding)

    def function(*values: Tensor) -> Tensor:
        return run(dict(zip(inputs, values, strict=True)), window=(2, 2), shift=(1, 0))

    assert torch.autograd.gradcheck(function, list(inputs.values()))
    if bias:  # PyTorch's fused kernels, which serve a constant bias, cannot be differentiated twice
        assert torch.autograd.gradgradcheck(function, list(inputs.values()))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
def test_lower_precision_stays_near_float64(dtype, tolerance):
    inputs = make((9, 13), (4, 4), head_dim=24, dtype=dtype, padding=True)
    exact = {name: t.detach().double().requires_grad_() for name, t in inputs.items()}
    options = {"window": (4, 4), "shift": (2, 2)}
    actual = run_with_gradients(inputs, **options)
    assert all(t is not None and t.dtype == dtype for t in actual.values())
    for name, expected in run_with_gradients(exact, **options, backend="reference").items():
        assert (actual[name].double() - expected).abs().max() < tolerance * expected.abs().max(), name


def test_autocast_does_not_change_the_precision():
    inputs = make((9, 13), (4, 4), dtype=torch.float32)
    expected = run_with_gradients(inputs, window=(4, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(run_with_gradients(inputs, window=(4, 4)), expected, tolerance=0)


def test_strided_inputs():
    inputs = make((9, 10), (4, 4))
    expected = run_with_gradients(inputs, window=(4, 4), shift=(2, 2))
    packed = torch.stack([inputs[name].detach() for name in "qkv"], dim=1).movedim(1, -1).requires_grad_()
    out = local_attention(*packed.unbind(-1), window=(4, 4), shift=(2, 2), bias_table=inputs["bias_table"])
    (grad,) = torch.autograd.grad((out.sin() + out.square()).sum(), packed)
    assert_same({"out": out, **dict(zip("qkv", grad.unbind(-1), strict=True))}, {k: expected[k] for k in ("out", "q", "k", "v")})


def test_work_in_portions_is_the_same_work(monkeypatch):
    inputs = make((9, 10), (4, 4), padding=True)
    whole = run_with_gradients(inputs, window=(4, 4), shift=(2, 2))
    monkeypatch.setattr(eager, "_SCORES", 100)
    monkeypatch.setattr(eager, "_FUSED_WINDOWS", 3)
    assert_same(run_with_gradients(inputs, window=(4, 4), shift=(2, 2)), whole)


def test_nothing_of_another_window_leaks_in():
    inputs = {name: t.detach() for name, t in make((10, 10), (4, 4)).items()}
    clean = run(inputs, window=(4, 4), shift=(1, 1))
    for name in "qkv":
        inputs[name][:, 1:5, 5:9] = torch.nan
    poisoned = run(inputs, window=(4, 4), shift=(1, 1))
    assert poisoned[:, 1:5, 5:9].isnan().all()
    clean[:, 1:5, 5:9] = torch.nan
    torch.testing.assert_close(poisoned, clean, equal_nan=True, rtol=0, atol=0)


def test_no_scores_are_kept_for_the_backward_pass():
    inputs = make((32, 32), (16, 16), batch=8, head_dim=4, dtype=torch.float32)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        run(inputs, window=(16, 16), shift=(8, 8))
    scores = 8 * 2 * 32 * 32 * 16 * 16
    assert sum(t.numel() for t in kept if t.is_floating_point()) < scores / 4


def test_compiles_as_one_graph():
    inputs = make((9, 10), (4, 4), padding=True)
    options = {"window": (4, 4), "shift": (2, 2)}
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    out = compiled(inputs, **options)
    grads = torch.autograd.grad((out.sin() + out.square()).sum(), list(inputs.values()))
    assert_same({"out": out, **dict(zip(inputs, grads, strict=True))}, run_with_gradients(inputs, **options))


@pytest.mark.parametrize("size", [(0, 5), (4, 0)])
def test_an_empty_image_gives_an_empty_result(size):
    assert run(make(size, (4, 4)), window=(4, 4), shift=(2, 2)).shape == (2, *size, 2, 5)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"k": torch.zeros(2, 4, 5, 2, 5)}, {}, r"\(2, 4, 5, 2, 5\)"),
        ({}, {"window": (4,)}, r"window \(4,\)"),
        ({}, {"window": (0, 4)}, r"window \(0, 4\)"),
        ({}, {"shift": (4, 0)}, r"shift \(4, 0\)"),
        ({"bias_table": torch.zeros(16, 2)}, {}, r"\(16, 2\), expected \(49, 2\)"),
        ({"k_pad": torch.zeros(2, 5), "v_pad": torch.zeros(2, 4)}, {}, r"\(2, 4\)\], expected \(2, 5\)"),
        ({}, {"backend": "cuda"}, "'cuda', expected one of auto, eager, reference"),
    ],
)
def test_wrong_input_is_named(change, options, message):
    with pytest.raises(ValueError, match=message):
        run(make((4, 4), (4, 4)) | change, **({"window": (4, 4)} | options))
