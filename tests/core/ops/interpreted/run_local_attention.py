import math

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from geovit.core.ops.local_attention import Grid, Neighborhood, Window, grid, local_attention, neighborhood, tables, windows
from geovit.core.ops.local_attention import triton as kernels
from geovit.core.ops.local_attention.prepare import prepare


def make(size, pattern, *, heads=2, head_dim=16, batch=1, table=True, padding=False, scale=False, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = dict.fromkeys("qkv", (batch, *size, heads, head_dim))
    if table:
        shapes["bias_table"] = (math.prod(axis.rows for axis in pattern), heads)
    if padding:
        shapes |= dict.fromkeys(("key", "value"), (heads, head_dim))
    if scale:
        shapes["scale"] = (heads,)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def results(inputs: dict[str, Tensor], pattern, backend: str, **options) -> dict[str, Tensor]:
    leaves = {name: x.detach().clone().requires_grad_() for name, x in inputs.items()}
    given = dict(leaves)
    padding = (given.pop("key"), given.pop("value")) if "key" in given else None
    out = local_attention(**given, pattern=pattern, padding=padding, **options, backend=backend)
    weight = torch.linspace(-1, 2, out.numel()).half().view(out.shape).to(out.dtype)
    grads = torch.autograd.grad(out, list(leaves.values()), weight)
    return {"out": out.detach(), **dict(zip(leaves, grads, strict=True))}


def assert_agrees(inputs: dict[str, Tensor], pattern, forward: float = 1e-5, backward: float = 1e-4, **options) -> None:
    got = results(inputs, pattern, "triton", **options)
    want = results({name: x.double() for name, x in inputs.items()}, pattern, "reference", **options)
    for name in want:
        assert got[name].dtype == inputs["q"].dtype
        off, largest = (float(x.abs().max()) for x in (got[name].double() - want[name], want[name]))
        allowed = forward if name == "out" else backward
        assert off <= allowed * largest, f"{name} is off by {off:.1e}, the largest entry is {largest:.1e}"


@pytest.mark.parametrize(
    ("size", "pattern"),
    [
        ((3,), windows((2,))),
        ((9, 7), windows((4, 4), shift=(2, 1))),
        ((5, 4, 3), windows((3, 2, 3), shift=(1, 0, 0))),
        ((9, 4), windows((2, 4), dilation=2)),
        ((7, 4), grid((3, 2))),
        ((8, 4), windows((4, 4), overlap=2)),
        ((9, 6), neighborhood((5, 3))),
        ((4, 5, 4), (Neighborhood(3, tile=2), Neighborhood(5), Neighborhood(3))),
        ((11,), (Neighborhood(3, dilation=2, tile=3),)),
        ((10,), (Neighborhood(4, causal=True, tile=4),)),
        ((6, 8), (Window(3, 1), Neighborhood(3, tile=4))),
        ((5, 6), (Grid(2), Window(6))),
    ],
    ids=str,
)
def test_patterns(size, pattern):
    assert_agrees(make(size, pattern, heads=1), pattern)


@pytest.mark.parametrize("length", [31, 32, 33, 65])
def test_windows_around_the_side_of_a_block(length):
    pattern = windows((length,))
    assert_agrees(make((length,), pattern, head_dim=8), pattern)


@pytest.mark.parametrize("head_dim", [1, 16, 24, 30, 53, 128])
def test_head_widths(head_dim):
    pattern = windows((20,))
    assert_agrees(make((20,), pattern, head_dim=head_dim, batch=2), pattern)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize(("size", "pattern"), [((6, 5), windows((4, 4))), ((4, 4), windows((4, 4), overlap=2))], ids=str)
def test_constant_keys_outside_the_image(size, pattern, table, activation):
    assert_agrees(make(size, pattern, table=table, padding=True), pattern, activation=activation)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_masks_without_a_table(activation):
    pattern = neighborhood((3,))
    assert_agrees(make((11,), pattern, table=False), pattern, activation=activation)


def test_cosine_scores_with_a_learned_scale():
    pattern = windows((4,))
    assert_agrees(make((7,), pattern, scale=True, padding=True), pattern, cosine=True)


@pytest.mark.parametrize("pattern", [windows((4, 4), shift=(1, 2)), neighborhood((3, 3))], ids=["windows", "neighborhood"])
def test_half_precision(pattern):
    assert_agrees(make((6, 5), pattern, heads=1, dtype=torch.float16), pattern, forward=2e-3, backward=4e-3)


def test_strides_do_not_matter():
    pattern = windows((3, 3))
    packed = torch.randn(2, 4, 3, 2, 3, 8, generator=torch.Generator().manual_seed(0))
    q, k, v = packed.unbind(4)
    v = v.transpose(1, 2).contiguous().transpose(1, 2)
    inputs = [x.contiguous() for x in (q, k, v)]
    got, want = (local_attention(*x, pattern, backend="triton") for x in ((q, k, v), inputs))
    torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_many_tiles_are_summed_in_groups_for_the_bias(monkeypatch):
    monkeypatch.setattr(tables, "PROGRAMS", 2)
    pattern = windows((2,))
    assert_agrees(make((7,), pattern, batch=3, heads=1, head_dim=3), pattern)  # one group of 9 and 3 tiles
    monkeypatch.setattr(tables, "PROGRAMS", 8)
    assert_agrees(make((7,), pattern, batch=2, heads=1, head_dim=3), pattern)  # groups of 2 and of 1 or no tiles


def test_ops_are_registered_as_torch_expects():
    pattern = windows((3,), overlap=1)
    inputs = make((4,), pattern, heads=1, head_dim=2, padding=True)
    given = [inputs[name] for name in "qkv"]
    padding = inputs["key"], inputs["value"]
    problem = prepare(
        *given, pattern, bias_table=inputs["bias_table"], scale=0.5, padding=padding, cosine=False, activation="softmax"
    )
    table, *arrays = kernels.arguments(*problem[:6], True)
    launches = [number for launch in (table.whole, *table.colours) for number in launch]
    tensors, options = (table.blocks, table.positions), (list(table.tile), 0.5, True)
    forward = torch.ops.geovit.local_attention_triton.default
    torch.library.opcheck(forward, (*arrays, *tensors, launches[:5], *options))
    out, lse = forward(*arrays, *tensors, launches[:5], *options)
    torch.library.opcheck(
        torch.ops.geovit.local_attention_triton_backward.default,
        (out, *arrays, out, lse, table.blocks, table.coloured, table.positions, launches, options[0], table.groups, *options[1:]),
    )


def test_compiles_once_as_one_graph_for_all_batch_sizes():
    pattern = windows((4,), shift=(1,))
    counter = CompileCounterWithBackend("aot_eager")

    def loss(q, k, v, table, backend="triton"):
        return local_attention(q, k, v, pattern, bias_table=table, backend=backend).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend=counter)
    for batch in (2, 3):
        inputs = [x.requires_grad_() for x in make((7,), pattern, batch=batch, heads=1).values()]
        for x in inputs[:3]:
            torch._dynamo.mark_dynamic(x, 0)
        got = torch.autograd.grad(compiled(*inputs), inputs)
        torch.testing.assert_close(got, torch.autograd.grad(loss(*inputs, backend="reference"), inputs))
    assert counter.frame_count == 1


def test_twice_equal_and_nothing_uninitialised_is_read():
    pattern = neighborhood((3, 3))
    inputs = make((9, 4), pattern, heads=1)
    want = results(inputs, pattern, "triton")
    torch.use_deterministic_algorithms(True)  # and so torch.empty is filled with NaN
    try:
        got = results(inputs, pattern, "triton")
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_what_inference_leaves_in_caches_serves_training():
    pattern = windows((3,), shift=(2,))
    inputs = make((8,), pattern, table=False)
    with torch.inference_mode():
        local_attention(**inputs, pattern=pattern, backend="triton")
    assert_agrees(inputs, pattern)
