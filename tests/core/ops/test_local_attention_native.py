"""The compiled kernel of local_attention against the float64 reference, and what only a compiled kernel can get wrong."""

import math
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from geovit.core.native import native_status
from geovit.core.ops.local_attention import choose_backend, grid, local_attention, neighborhood, windows
from geovit.core.ops.local_attention.native import _cached_layout
from geovit.core.ops.local_attention.prepare import constants

LOADED, REASON = native_status()
pytestmark = pytest.mark.skipif(not LOADED, reason=REASON)

PATTERNS = {
    "shifted windows": ((9, 10), windows((4, 4), shift=(3, 2))),
    "stripes": ((6, 9), windows((4, 1))),
    "dilated windows": ((13, 10), windows((3, 2), dilation=2)),
    "overlapping windows": ((9, 10), windows((4, 4), overlap=1)),
    "grid": ((9, 10), grid((4, 3))),
    "neighbourhood": ((9, 10), neighborhood((3, 5))),
    "causal neighbourhood": ((9, 10), neighborhood((3, 3), dilation=(2, 1), causal=(True, False))),
    "volume": ((5, 6, 7), windows((3, 3, 3), shift=(1, 1, 2))),
    "many vectors": ((130,), windows((70,), shift=(1,))),
}


def make(
    size: tuple[int, ...], pattern: Any, *, heads: int = 3, head_dim: int = 16, table: bool = True, padding: bool = False
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).requires_grad_()

    given: dict[str, Any] = {"qkv": normal(2, *size, 3, heads, head_dim)}
    if table:
        given["bias_table"] = normal(math.prod(axis.rows for axis in pattern), heads)
    if padding:
        given["padding"] = normal(heads, head_dim), normal(heads, head_dim)
    return given


def leaves(given: dict[str, Any]) -> list[Tensor]:
    return [x for value in given.values() for x in (value if isinstance(value, tuple) else (value,)) if torch.is_tensor(x)]


def results(given: dict[str, Any], pattern: Any, backend: str = "native", **options: Any) -> list[Tensor]:
    """The output and every gradient, for a gradient that differs from entry to entry."""
    rest = {name: value for name, value in given.items() if name != "qkv"}
    out = local_attention(*given["qkv"].unbind(-3), pattern, **rest, **options, backend=backend)
    weight = torch.linspace(-1, 2, out.numel()).cos().reshape(out.shape).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves(given), weight)]


@pytest.mark.parametrize("head_dim", [3, 16, 20])
@pytest.mark.parametrize("name", PATTERNS)
def test_bfloat16_is_read_widened_and_rounded_once(name: str, head_dim: int) -> None:
    size, pattern = PATTERNS[name]
    given = make(size, pattern, head_dim=head_dim, padding=True)
    options = {"bias_table": given["bias_table"].detach(), "padding": tuple(x.detach().bfloat16() for x in given["padding"])}
    qkv = given["qkv"].detach().bfloat16()
    got = local_attention(*qkv.unbind(-3), pattern, **options, backend="native")
    options["padding"] = tuple(x.float() for x in options["padding"])
    want = local_attention(*qkv.float().unbind(-3), pattern, **options, backend="native")
    assert torch.equal(got, want.bfloat16())


def exact(given: dict[str, Any], pattern: Any, **options: Any) -> list[Tensor]:
    def wide(x: Any) -> Any:
        return tuple(map(wide, x)) if isinstance(x, tuple) else x.detach().double().requires_grad_()

    return results({name: wide(value) for name, value in given.items()}, pattern, "reference", **options)


def assert_close(got: list[Tensor], want: list[Tensor]) -> None:
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        assert (a.double() - b).abs().max() <= (1e-4 if i else 1e-5) * b.abs().max(), f"result {i}"


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize(("table", "padding"), [(True, False), (False, True), (True, True)])
def test_agrees_with_the_reference(name, activation, table, padding):
    size, pattern = PATTERNS[name]
    given = make(size, pattern, table=table, padding=padding)
    assert_close(results(given, pattern, activation=activation), exact(given, pattern, activation=activation))


@pytest.mark.parametrize("length", [1, 7, 63, 64, 65])
@pytest.mark.parametrize("table", [True, False])
def test_tile_sizes_around_the_vector_width(length, table):
    pattern = windows((length,))
    given = make((2 * length + 1,), pattern, table=table)
    assert_close(results(given, pattern), exact(given, pattern))


@pytest.mark.parametrize("head_dim", [1, 3, 8, 10, 16, 24, 30, 32, 53, 64, 122, 128])
def test_head_widths(head_dim):
    pattern = windows((5, 5), shift=(2, 1))
    given = make((9, 7), pattern, head_dim=head_dim, padding=True)
    assert_close(results(given, pattern), exact(given, pattern))


def test_cosine_and_learned_scale():
    pattern = windows((4, 4), shift=(1, 3))
    given = make((9, 7), pattern, padding=True) | {"scale": torch.tensor([0.5, 3.0, 20.0]).requires_grad_()}
    assert_close(results(given, pattern, cosine=True), exact(given, pattern, cosine=True))


@pytest.mark.parametrize("spread", [5.0, 60.0, 2000.0])
def test_biases_of_any_spread_outside_the_image(spread):
    # Those of one key may be small beside the largest of the table, though not beside the query's own others.
    pattern = windows((4, 4), overlap=2)
    given = make((8, 9), pattern, padding=True)
    given["bias_table"] = (spread * given["bias_table"]).detach().requires_grad_()
    assert_close(results(given, pattern)[:1], exact(given, pattern)[:1])  # gradients vanish where one key has all the weight


def test_large_scores_do_not_overflow_and_nan_is_not_hidden():
    pattern = windows((7,))
    given = make((21,), pattern)
    given["qkv"] = (30 * given["qkv"]).detach().requires_grad_()  # scores of some thousands
    assert_close(results(given, pattern), exact(given, pattern))
    with torch.no_grad():
        given["qkv"][0, 3, 0] = math.nan  # a query
        nan = local_attention(*given["qkv"].unbind(-3), pattern, backend="native").isnan()
    assert nan[0, 3].all()
    assert nan.sum() == nan[0, 3].numel()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_float32_rounded(dtype):
    pattern = windows((4, 4), shift=(1, 3))
    given = {name: x.detach().to(dtype).requires_grad_() for name, x in make((9, 7), pattern).items()}
    got, want = results(given, pattern), exact(given, pattern)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == dtype
        assert (a.double() - b).abs().max() <= torch.finfo(dtype).eps * b.abs().max()


def test_strides_do_not_matter():
    pattern = windows((4, 3), shift=(1, 2))
    x = torch.randn(2, 3, 7, 9, 2, 16)  # contiguous per operand
    want = local_attention(*x.permute(1, 0, 2, 3, 4, 5), pattern, backend="native")
    for order in [(0, 2, 3, 1, 4, 5), (5, 0, 1, 4, 2, 3), (1, 4, 0, 2, 3, 5), (1, 3, 2, 0, 4, 5)]:
        back = [order.index(i) for i in (1, 0, 2, 3, 4, 5)]
        q, k, v = x.permute(order).contiguous().permute(back)
        torch.testing.assert_close(local_attention(q, k, v, pattern, backend="native"), want, rtol=0, atol=0)
    q, k, v = torch.randn(3, 2, 14, 12, 2, 32)[:, :, ::2, 3:, :, 1:17]  # gaps on every axis
    want = local_attention(*(t.contiguous() for t in (q, k, v)), pattern, backend="native")
    torch.testing.assert_close(local_attention(q, k, v, pattern, backend="native"), want, rtol=0, atol=0)


@pytest.mark.parametrize("size", [(8, 1), (1, 8), (5, 1, 6), (5, 6, 1), (1, 7, 1)])
def test_the_stride_of_an_axis_of_one_position_means_nothing(size):
    pattern = windows(tuple(min(n, 3) for n in size))
    table = make(size, pattern)["bias_table"]
    plain = torch.randn(3, 2, *size, 3, 16)
    strides = [10**6 if n == 1 else stride for n, stride in zip(plain.shape, plain.stride(), strict=True)]
    grads = []
    for qkv, backend in ((plain.as_strided(plain.shape, strides), "native"), (plain.double(), "reference")):
        q, k, v = (x.detach().requires_grad_() for x in qkv)
        out = local_attention(q, k, v, pattern, bias_table=table.to(q.dtype), backend=backend)
        assert backend == "reference" or q.is_contiguous()
        grads.append([out, *torch.autograd.grad(out.sin().sum(), (q, k, v))])
    assert_close(*grads)


def test_the_default_device_does_not_matter():
    size, pattern = (6, 9), windows((3, 2))
    given = make(size, pattern)
    want = results(given, pattern)
    _cached_layout.cache_clear()
    with torch.device("meta"):
        out = local_attention(*given["qkv"].unbind(-3), pattern, bias_table=given["bias_table"], backend="native")
    assert torch.equal(out, want[0])
    assert torch.equal(results(given, pattern)[0], want[0])  # what the first call left in the cache serves the next


def test_expanded_gradients_do_not_matter():
    pattern = windows((4, 3))
    given = make((7, 9), pattern)
    grads = []
    for backend in ("native", "reference"):
        out = local_attention(*given["qkv"].unbind(-3), pattern, bias_table=given["bias_table"], backend=backend)
        grads.append(torch.autograd.grad(out[..., 0].sum(), leaves(given)))
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["shifted windows", "neighbourhood"])
def test_result_does_not_depend_on_the_number_of_threads(name):
    pattern = PATTERNS[name][1]
    given = make((33, 40), pattern, heads=4, padding=name != "neighbourhood")
    threads = torch.get_num_threads()
    try:
        runs = []
        for count in (1, 2, 2, 3):
            torch.set_num_threads(count)
            runs.append(results(given, pattern))
    finally:
        torch.set_num_threads(threads)
    for other in runs[1:]:
        torch.testing.assert_close(other, runs[0], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["overlapping windows", "neighbourhood", "causal neighbourhood"])
def test_every_element_of_fresh_memory_is_written(name):
    size, pattern = PATTERNS[name]
    given = make(size, pattern, padding=True)
    want = results(given, pattern)
    assert torch.utils.deterministic.fill_uninitialized_memory
    try:
        torch.use_deterministic_algorithms(True)  # torch then fills what it allocates with NaN
        torch.testing.assert_close(results(given, pattern), want, rtol=0, atol=0)
    finally:
        torch.use_deterministic_algorithms(False)


def operands(activation: str = "softmax") -> tuple[Any, ...]:
    pattern, size = windows((4, 3), shift=(1, 2)), (7, 8)
    given = make(size, pattern, padding=True)
    q, k, v = given["qkv"].detach().unbind(-3)
    table = given["bias_table"].detach().t().contiguous()
    layout = _cached_layout(*constants(size, pattern), True)
    return q, k, v, table, *(x.detach() for x in given["padding"]), layout, 0.25, activation == "sigmoid"


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_ops_are_registered_as_torch_expects(activation):
    given = operands(activation)
    torch.library.opcheck(torch.ops.geovit.local_attention.default, given)
    out, rows = torch.ops.geovit.local_attention(*given)
    for needs_table in (True, False):
        args = (torch.ones_like(out), *given[:6], rows, *given[6:], needs_table)
        torch.library.opcheck(torch.ops.geovit.local_attention_backward.default, args)


def test_a_layout_that_does_not_fit_is_refused():
    q, k, v, table, pad_k, pad_v, layout, *rest = operands()
    op = torch.ops.geovit.local_attention
    with pytest.raises(RuntimeError, match="the layout ends too early"):
        op(q, k, v, table, pad_k, pad_v, layout[:-1], *rest)
    with pytest.raises(RuntimeError, match=r"out of range|another size"):
        op(q[:, :-1], k[:, :-1], v[:, :-1], table, pad_k, pad_v, layout, *rest)
    with pytest.raises(RuntimeError, match="pad_k or pad_v is none"):
        op(q, k, v, table, None, None, layout, *rest)
    with pytest.raises(RuntimeError, match="table has another shape"):
        op(q, k, v, table[:, 1:], pad_k, pad_v, layout, *rest)
    for place in range(len(layout)):  # whatever is wrong in it, no memory outside the operands is touched
        for number in (-2, 1 << 30):
            wrong = layout.clone()
            wrong[place] = number
            with pytest.raises(RuntimeError, match="the layout"):
                op(q, k, v, table, pad_k, pad_v, wrong, *rest)


@pytest.mark.parametrize(
    ("name", "compiler"), [("shifted windows", "aot_eager"), ("neighbourhood", "aot_eager"), ("shifted windows", "inductor")]
)
def test_compiles_as_one_graph(name, compiler):
    size, pattern = PATTERNS[name]
    given = make(size, pattern, padding=True)

    def loss(qkv: Tensor, table: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = local_attention(*qkv.unbind(-3), pattern, bias_table=table, padding=(key, value), backend="native")
        return out.square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend=compiler)
    got = torch.autograd.grad(compiled(*leaves(given)), leaves(given), materialize_grads=True)
    want = torch.autograd.grad(loss(*leaves(given)), leaves(given), materialize_grads=True)
    torch.testing.assert_close(got, want)


def test_second_derivative_is_refused_not_wrong():
    pattern = windows((4,))
    given = make((9,), pattern)
    out = local_attention(*given["qkv"].unbind(-3), pattern, backend="native")
    (first,) = torch.autograd.grad(out.sum(), given["qkv"], create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
        torch.autograd.grad(first.sum(), given["qkv"])


def test_what_native_does_not_serve_is_told():
    cpu = torch.device("cpu")
    assert choose_backend(cpu, torch.float32)[0] == "native"
    assert choose_backend(cpu, torch.float64) == ("eager", "the compiled kernel has no torch.float64")
    assert choose_backend(torch.device("cuda"), torch.float32)[0] != "native"
    with pytest.raises(ValueError, match="backend 'native' cannot be used: the compiled kernel has no torch.float64"):
        local_attention(*torch.zeros(3, 1, 4, 1, 8).double(), windows((2,)), backend="native")


class Images(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Tensor:
        torch.set_num_threads(1)
        given = make((9, 7), windows((4, 4)))
        return results(given, windows((4, 4)))[1]


def test_works_in_a_forked_worker():
    want = Images()[0]
    loader = torch.utils.data.DataLoader(Images(), batch_size=None, num_workers=1, multiprocessing_context="fork")
    for got in loader:
        torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_agrees_with_the_reference_on_poisoned_memory(isa):
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import test_local_attention_native as t
for name in ("shifted windows", "neighbourhood", "many vectors"):
    for head_dim in (3, 30, 53):
        size, pattern = t.PATTERNS[name]
        given = t.make(size, pattern, head_dim=head_dim, padding=True)
        t.assert_close(t.results(given, pattern), t.exact(given, pattern))
        t.assert_close(t.results(given, pattern, activation="sigmoid"), t.exact(given, pattern, activation="sigmoid"))
print(t.REASON)
"""
    # The C library fills what it allocates with bytes 0x7f: as a float, 3.4e38.
    environment = {**os.environ, "GEOVIT_ISA": isa, "MALLOC_PERTURB_": "128"}
    done = subprocess.run(
        [sys.executable, "-c", code, os.path.dirname(__file__)], env=environment, capture_output=True, text=True, check=False
    )
    if "but this CPU has" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{isa} kernels")


@pytest.mark.parametrize("shape", [(2, 6, 0, 16), (2, 6, 3, 0)])
def test_direct_calls_without_heads_or_width_are_refused(shape):
    layout = _cached_layout(*constants((6,), windows((3,))), False)
    x = torch.empty(shape)
    with pytest.raises(RuntimeError, match="q has no heads or no width"):
        torch.ops.geovit.local_attention(x, x, x, None, None, None, layout, 1.0, False)
