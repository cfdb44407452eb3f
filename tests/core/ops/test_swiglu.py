import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from geovit.core.native import native_status
from geovit.core.ops.swiglu import choose_backend, swiglu

LOADED, REASON = native_status()
needs_native = pytest.mark.skipif(not LOADED, reason=REASON)
BACKENDS = ["eager", pytest.param("native", marks=needs_native)]
SIZES = [0, 1, 7, 63, 64, 65, 100, 40_000]  # around the vector widths, and enough for several threads


def make(size: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(size)
    return [torch.randn(size, generator=generator).mul(4).to(dtype).requires_grad_() for _ in range(2)]


def results(inputs: list[torch.Tensor], backend: str) -> list[torch.Tensor]:
    """The output and both gradients, for a gradient that differs from element to element."""
    out = swiglu(*inputs, backend=backend)
    weight = torch.linspace(-1, 2, out.numel()).to(torch.bfloat16).to(out.dtype)
    return [out, *torch.autograd.grad(out, inputs, weight)]


def test_reference_is_differentiated_correctly():
    inputs = [x.detach().double().requires_grad_() for x in make(7)]
    assert torch.autograd.gradcheck(lambda *x: swiglu(*x, backend="reference"), inputs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_backends_agree_with_the_reference(backend, size, dtype, tolerance):
    inputs = make(size, dtype)
    wide = [x.detach().double().requires_grad_() for x in inputs]
    for got, want in zip(results(inputs, backend), results(wide, "reference"), strict=True):
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance)


@needs_native
def test_native_bfloat16_is_the_exact_result_rounded_once():
    inputs = [x.detach() for x in make(40_000, torch.bfloat16)]
    exact = swiglu(*(x.double() for x in inputs), backend="reference")
    off = swiglu(*inputs, backend="native") != exact.to(torch.bfloat16)
    assert off.double().mean() < 1e-3  # float32 arithmetic may fall on the other side of a tie, no more


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_bfloat16_gate_is_right_to_the_last_bit_but_one(backend):
    # All 65536 values: subnormals, both infinities and every NaN among them.
    gate = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    got, want = (swiglu(gate, torch.ones_like(gate), backend=name) for name in (backend, "reference"))
    torch.testing.assert_close(got, want, rtol=2**-7, atol=1e-36, equal_nan=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strides_do_not_matter(backend):
    gate, value = (x.detach().view(200, 20, 10) for x in make(40_000))
    want = swiglu(gate.permute(2, 0, 1).contiguous(), value.permute(2, 0, 1).contiguous(), backend=backend)
    torch.testing.assert_close(swiglu(gate.permute(2, 0, 1), value.permute(2, 0, 1), backend=backend), want, rtol=0, atol=0)
    torch.testing.assert_close(
        swiglu(gate[::2, :, 3:], value[1::2, :, :7], backend=backend),
        gate[::2, :, 3:].sigmoid() * gate[::2, :, 3:] * value[1::2, :, :7],
    )


@needs_native
def test_expanded_gradients_do_not_matter():
    inputs = make(100)
    got = torch.autograd.grad(swiglu(*inputs, backend="native").sum(), inputs)  # the gradient of sum has stride zero
    want = torch.autograd.grad(swiglu(*inputs, backend="reference").sum(), inputs)
    torch.testing.assert_close(got, want)


@needs_native
def test_result_does_not_depend_on_the_number_of_threads():
    inputs = make(40_000)
    threads = torch.get_num_threads()
    try:
        runs = []
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            runs.append(results(inputs, "native"))
    finally:
        torch.set_num_threads(threads)
    for other in runs[1:]:
        torch.testing.assert_close(other, runs[0], rtol=0, atol=0)


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ops_are_registered_as_torch_expects(dtype):
    gate, value = (x.detach().view(5, 20).t() for x in make(100, dtype))
    torch.library.opcheck(torch.ops.geovit.swiglu.default, (gate, value))
    torch.library.opcheck(torch.ops.geovit.swiglu_backward.default, (value, gate, value))


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_compiles_as_one_graph(backend):
    inputs = make(100)
    compiled = torch.compile(lambda *x: swiglu(*x, backend=backend).square().sum(), fullgraph=True, backend="aot_eager")
    got = torch.autograd.grad(compiled(*inputs), inputs)
    want = torch.autograd.grad(swiglu(*inputs, backend="reference").square().sum(), inputs)
    torch.testing.assert_close(got, want)


@needs_native
def test_second_derivative_through_native_is_refused_not_wrong():
    inputs = make(7)
    (first,) = torch.autograd.grad(swiglu(*inputs, backend="native").sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
        torch.autograd.grad(first.sum(), inputs[1])


def test_auto_takes_the_kernel_that_serves_and_eager_else():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose_backend(cpu, torch.float32)[0] == ("native" if LOADED else "eager")
    assert choose_backend(cpu, torch.float64) == ("eager", "the compiled kernel has no torch.float64")
    assert choose_backend(cuda, torch.float32)[0] == ("triton" if importlib.util.find_spec("triton") else "eager")
    assert choose_backend(cuda, torch.float64)[0] == "eager"
    gate, value = (x.detach().double() for x in make(7))
    torch.testing.assert_close(swiglu(gate, value), swiglu(gate, value, backend="eager"), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (torch.zeros(2, 4), r"\[2, 3\] torch.float32 on cpu and \[2, 4\] torch.float32 on cpu"),
        (torch.zeros(2, 3, dtype=torch.bfloat16), r"and \[2, 3\] torch.bfloat16 on cpu"),
        (torch.zeros(2, 3, device="meta"), r"and \[2, 3\] torch.float32 on meta"),
    ],
)
def test_tensors_that_do_not_match_are_described(value, told):
    with pytest.raises(ValueError, match=told):
        swiglu(torch.zeros(2, 3), value)


def test_integers_and_wrong_backends_are_refused():
    with pytest.raises(ValueError, match=r"must be floating .* torch.int64"):
        swiglu(torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="backend is 'cuda', allowed are auto, reference, eager, native, triton"):
        swiglu(torch.zeros(3), torch.zeros(3), backend="cuda")
    with pytest.raises(ValueError, match=r"backend 'native' cannot be used: the compiled kernel has no torch.float64"):
        swiglu(torch.zeros(3).double(), torch.zeros(3).double(), backend="native")
    with pytest.raises(ValueError, match=r"backend 'triton' cannot be used: the Triton kernel is for GPUs, not cpu"):
        swiglu(torch.zeros(3), torch.zeros(3), backend="triton")


def in_fresh_process(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


@needs_native
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_gives_the_same_answer(isa):
    code = """
import torch
from geovit.core.native import native_status
from geovit.core.ops.swiglu import swiglu
torch.manual_seed(0)
gate, value = torch.randn(2, 1001)
for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 5e-2)):
    answers = []
    for backend, kind in (("native", dtype), ("reference", torch.float64)):
        inputs = [x.to(dtype).to(kind).requires_grad_() for x in (gate, value)]
        out = swiglu(*inputs, backend=backend)
        answers.append([x.double() for x in (out, *torch.autograd.grad(out.sum(), inputs))])
    torch.testing.assert_close(*answers, rtol=tolerance, atol=tolerance)
print(native_status()[1])
"""
    done = in_fresh_process(code, GEOVIT_ISA=isa)
    if "but this CPU has" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{isa} kernels")


def test_environment_variables_are_checked():
    code = "from geovit.core.native import native_status; print(*native_status())"
    assert in_fresh_process(code, GEOVIT_NATIVE="0").stdout == "False disabled by GEOVIT_NATIVE=0\n"
    assert (
        "ValueError: GEOVIT_ISA is 'avx3', allowed are baseline, avx2, avx512" in in_fresh_process(code, GEOVIT_ISA="avx3").stderr
    )
