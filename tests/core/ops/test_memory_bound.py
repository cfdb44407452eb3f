"""What instance_norm_act, layer_norm_residual and depthwise_conv have in common: how backends agree and kernels behave."""

import itertools
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from geovit.core.native import native_status
from geovit.core.ops.depthwise_conv import depthwise_conv
from geovit.core.ops.instance_norm_act import choose_backend, instance_norm_act
from geovit.core.ops.layer_norm_residual import layer_norm_residual

LOADED, REASON = native_status()
needs_native = pytest.mark.skipif(not LOADED, reason=REASON)
BACKENDS = ["eager", pytest.param("native", marks=needs_native)]


def norm(x, weight, bias, residual=None, **options):
    return (instance_norm_act(x, weight, bias, residual=residual, **options),)


def residual_norm(x, branch, weight, bias, scale=None, **options):
    return layer_norm_residual(x, branch, weight, bias, scale=scale, **options)


def conv(x, weight, bias, **options):
    return (depthwise_conv(x, weight, bias, **options),)


def image(*shape: int) -> Callable[[int], list[Tensor]]:
    """Inputs of instance norm, with another mean and deviation in each channel."""

    def make(channels: int) -> list[Tensor]:
        x = torch.randn(*shape, channels) * (0.5 + torch.rand(channels)) + torch.randn(channels)
        return [x, torch.randn(channels), torch.randn(channels), torch.randn(*shape, channels)]

    return make


def tokens(*shape: int) -> Callable[[int], list[Tensor]]:
    return lambda c: [torch.randn(*shape, c), torch.randn(*shape, c), torch.randn(c), torch.randn(c), torch.randn(c)]


def pixels(shape: Sequence[int], kernel: Sequence[int]) -> Callable[[int], list[Tensor]]:
    return lambda c: [torch.randn(*shape, c), torch.randn(c, 1, *kernel), torch.randn(c)]


# Function, inputs for a number of channels, options.
CASES = {
    "norm": (norm, image(2, 9, 11), {"activation": "none"}),
    "norm-relu": (norm, image(1, 4, 5, 6), {"activation": "relu"}),
    "norm-leaky": (norm, image(1, 1000), {"activation": "leaky_relu", "slope": 0.1}),
    "norm-gelu": (norm, image(2, 3, 17), {"activation": "gelu"}),
    "norm-silu-alone": (norm, lambda c: image(2, 70)(c)[:3], {"activation": "silu"}),
    "residual": (residual_norm, lambda c: tokens(2, 9, 11)(c)[:4], {}),
    "residual-scale": (residual_norm, tokens(700), {}),
    "residual-rms": (residual_norm, tokens(3, 5), {"rms": True}),
    "conv1d-causal": (conv, pixels((2, 300), (4,)), {"sees": "before", "activation": "silu"}),
    "conv2d": (conv, pixels((2, 9, 14), (7, 5)), {}),
    "conv2d-small-image": (conv, pixels((1, 2, 3), (7, 7)), {"activation": "gelu"}),
    "conv3d": (conv, pixels((2, 4, 5, 19), (3, 3, 3)), {"activation": "leaky_relu"}),
}
CHANNELS = [1, 7, 24, 63, 64, 65]  # around the vector widths: 24 is one and a half of AVX-512, 65 leaves one channel
FEW = ["norm-leaky", "norm-gelu", "residual-scale", "conv1d-causal", "conv3d"]


def inputs_of(case: str, channels: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(channels)
    return [x.to(dtype) for x in CASES[case][1](channels)]


def results(case: str, inputs: Sequence[Tensor], backend: str, dtype: torch.dtype | None = None) -> list[Tensor]:
    """The outputs and the gradient of every input, for gradients that differ from element to element."""
    function, _, options = CASES[case]
    leaves = [x.detach().to(dtype or x.dtype).requires_grad_() for x in inputs]
    outputs = function(*leaves, backend=backend, **options)
    weights = [torch.sin(torch.arange(y.numel()) * (1.0 + i)).to(torch.bfloat16).to(y.dtype) for i, y in enumerate(outputs)]
    grads = torch.autograd.grad(outputs, leaves, [w.view(y.shape) for w, y in zip(weights, outputs, strict=True)])
    return [*(y.detach() for y in outputs), *grads]


def assert_close(got: Sequence[Tensor], want: Sequence[Tensor], outputs: int, forward: float, backward: float) -> None:
    """Compare relative to the largest entry; tokens of one channel have a norm of exactly zero, and gradients of zero."""
    assert len(got) == len(want)
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        worst, tolerance = (g.double() - w).abs().max(), forward if i < outputs else backward
        assert worst <= tolerance * w.abs().max().clamp_min(1e-3), f"result {i} is off by {worst / w.abs().max():.1e}"


# But for torch's layer norm of a single channel, which should be its bias and is rounding noise times 1 / sqrt(eps).
AGREEING = [
    pytest.param(case, channels, backend, marks=needs_native if backend == "native" else ())
    for case, channels, backend in itertools.product(CASES, CHANNELS, ("eager", "native"))
    if (case[:8], channels, backend) != ("residual", 1, "eager")
]


@pytest.mark.parametrize(("case", "channels", "backend"), AGREEING)
def test_backends_agree_with_the_reference(case, channels, backend):
    inputs = inputs_of(case, channels)
    outputs = 2 if case.startswith("residual") else 1
    assert_close(results(case, inputs, backend), results(case, inputs, "reference", torch.float64), outputs, 1e-5, 1e-4)


@needs_native
@pytest.mark.parametrize("case", FEW)
def test_bfloat16_agrees_with_the_reference(case):
    # Not asked of eager: it rounds before the activation, and so falls on the other side of a kink here and there.
    inputs = inputs_of(case, 24, torch.bfloat16)
    got = results(case, inputs, "native")
    assert all(y.dtype == torch.bfloat16 for y in got)
    assert_close(got, results(case, inputs, "reference", torch.float64), len(got), 2e-2, 2e-2)


@pytest.mark.parametrize("case", ["norm-gelu", "residual-scale", "conv2d"])
def test_references_are_differentiated_correctly(case):
    function, _, options = CASES[case]
    make = {"norm-gelu": image(2, 3), "residual-scale": tokens(3), "conv2d": pixels((1, 3, 2), (3, 3))}[case]
    inputs = [x.double().requires_grad_() for x in make(3)]
    assert torch.autograd.gradcheck(lambda *x: function(*x, backend="reference", **options), inputs)


@needs_native
@pytest.mark.parametrize("case", FEW)
def test_parameters_of_another_dtype_are_taken(case):
    x, *others = inputs_of(case, 24)
    mixed = [x.bfloat16(), *(t.bfloat16() if t.shape == x.shape else t for t in others)]
    got = results(case, mixed, "native")
    assert [g.dtype for g in got[-len(mixed) :]] == [t.dtype for t in mixed]
    assert_close(got, results(case, mixed, "reference", torch.float64), len(got), 2e-2, 2e-2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", FEW)
def test_autocast_changes_nothing(case, backend):
    inputs = inputs_of(case, 24)
    want = results(case, inputs, backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = results(case, inputs, backend)
    for g, w in zip(got, want, strict=True):
        assert g.dtype == w.dtype
        assert torch.equal(g, w)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(0, 5, 6), (2, 0, 6), (2, 5, 0)])
@pytest.mark.parametrize("sees", ["around", "before"])
def test_an_empty_image_is_convolved_to_an_empty_one(shape, sees, backend):
    x, weight = torch.randn(*shape, 3, requires_grad=True), torch.randn(3, 1, 3, 3, requires_grad=True)
    y = depthwise_conv(x, weight, sees=sees, activation="silu", backend=backend)
    grad_x, grad_weight = torch.autograd.grad(y.sum(), (x, weight))
    assert y.shape == x.shape == grad_x.shape
    assert not grad_weight.any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", FEW)
def test_strides_do_not_matter(case, backend):
    inputs = inputs_of(case, 24)
    strided = [x.transpose(0, -1).contiguous().transpose(0, -1) if x.ndim > 1 else x.repeat_interleave(2)[::2] for x in inputs]
    assert not strided[0].is_contiguous()
    for got, want in zip(results(case, strided, backend), results(case, inputs, backend), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-4)


@needs_native
@pytest.mark.parametrize("case", FEW)
def test_expanded_gradients_do_not_matter(case):
    function, _, options = CASES[case]
    inputs = [x.requires_grad_() for x in inputs_of(case, 24)]
    grads = [
        torch.autograd.grad(sum((i + 1) * y.sum() for i, y in enumerate(function(*inputs, backend=b, **options))), inputs)
        for b in ("native", "reference")
    ]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-3)


def many(case: str) -> list[Tensor]:
    """Inputs with enough work for several threads."""
    make = {
        "norm": image(2, 40, 40),
        "residual-scale": tokens(3000),
        "conv2d": pixels((2, 30, 30), (7, 5)),
        "conv1d-causal": pixels((1, 1000), (4,)),
    }[case]
    torch.manual_seed(0)
    return make(65)


@needs_native
@pytest.mark.parametrize("case", ["norm", "residual-scale", "conv2d", "conv1d-causal"])
def test_result_does_not_depend_on_run_threads_or_old_memory(case):
    inputs, threads = many(case), torch.get_num_threads()
    try:
        runs = []
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            runs.append(results(case, inputs, "native"))
        torch.use_deterministic_algorithms(True)  # new memory is then filled with NaN
        runs.append(results(case, inputs, "native"))
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
    for other in runs[1:]:
        torch.testing.assert_close(other, runs[0], rtol=0, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", ["norm-gelu", "residual-scale", "conv2d-small-image"])
def test_compiles_as_one_graph(case, backend):
    function, _, options = CASES[case]
    inputs = [x.requires_grad_() for x in inputs_of(case, 24)]
    torch._dynamo.reset()  # one function for all cases: they would count as its recompilations

    def loss(*x: Tensor, backend: str = backend) -> Tensor:
        return sum(y.square().sum() for y in function(*x, backend=backend, **options))

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    got = torch.autograd.grad(compiled(*inputs), inputs)
    torch.testing.assert_close(got, torch.autograd.grad(loss(*inputs, backend="reference"), inputs), rtol=1e-4, atol=1e-3)


@needs_native
def test_inductor_compiles_all_of_them_in_one_graph():
    torch.manual_seed(0)
    shapes = [(2, 6, 5, 24), (24, 1, 3, 3), (24,), (24,)]
    inputs = [torch.randn(shape).requires_grad_() for shape in shapes]

    def loss(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor) -> Tensor:
        branch = depthwise_conv(x, weight, bias, activation="silu", backend="native")
        s, y = layer_norm_residual(x, branch, bias, scale=scale, backend="native")
        return instance_norm_act(y, bias, residual=s, activation="gelu", backend="native").square().mean()

    torch._dynamo.reset()
    got, want = (torch.autograd.grad(f(*inputs), inputs) for f in (torch.compile(loss, fullgraph=True), loss))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


@needs_native
def test_ops_are_registered_as_torch_expects():
    ops, check = torch.ops.geovit, torch.library.opcheck
    x, weight, bias, residual = (t.flatten(1, -2) if t.ndim > 1 else t for t in inputs_of("norm", 7))
    for other in (None, residual):
        check(ops.instance_norm_act.default, (x, weight, bias, other, 1e-5, 3, 0.0))
        _, mean, rstd = ops.instance_norm_act(x, weight, bias, other, 1e-5, 3, 0.0)
        check(ops.instance_norm_act_backward.default, (x, x, mean, rstd, weight, bias, other, 3, 0.0))

    x, branch, weight, bias, scale = inputs_of("residual-scale", 7)
    for factor in (None, scale):
        check(ops.layer_norm_residual.default, (x, branch, factor, weight, bias, 1e-5, False))
        s, y, mean, rstd = ops.layer_norm_residual(x, branch, factor, weight, bias, 1e-5, False)
        check(ops.layer_norm_residual_backward.default, (y, y, s, mean, rstd, branch, factor, weight, False))

    x, kernel, bias = torch.randn(1, 2, 3, 4, 7), torch.randn(1, 3, 3, 7), torch.randn(7)
    for keep in (False, True):
        check(ops.depthwise_conv.default, (x, kernel, bias, [0, 1, 1], 4, 0.0, keep))
    check(ops.depthwise_conv_activation_gradient.default, (x, x, 4, 0.0))
    check(ops.depthwise_conv_kernel_gradient.default, (x, x, kernel, [0, 1, 1]))


@needs_native
@pytest.mark.parametrize("case", ["norm", "residual", "conv2d"])
def test_second_derivative_through_native_is_refused_not_wrong(case):
    function, _, options = CASES[case]
    inputs = [x.requires_grad_() for x in inputs_of(case, 7)]
    (first,) = torch.autograd.grad(function(*inputs, backend="native", **options)[-1].sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
        torch.autograd.grad(first.sum(), inputs[1])


def test_auto_takes_native_for_what_it_serves_and_eager_else():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose_backend(cpu, torch.float32)[0] == ("native" if LOADED else "eager")
    assert choose_backend(cpu, torch.float64) == ("eager", "the compiled kernel has no torch.float64")
    assert choose_backend(cuda, torch.float32) == ("eager", "the compiled kernel is for the CPU, not cuda")
    for case in FEW:
        inputs = inputs_of(case, 7, torch.float64)
        torch.testing.assert_close(results(case, inputs, "auto"), results(case, inputs, "eager"), rtol=0, atol=0)


@pytest.mark.parametrize("case", ["norm", "residual", "conv2d"])
def test_wrong_backends_are_told(case):
    function, _, options = CASES[case]
    inputs = inputs_of(case, 7)
    with pytest.raises(ValueError, match="backend is 'cuda', allowed are auto, reference, eager, native"):
        function(*inputs, backend="cuda", **options)
    with pytest.raises(ValueError, match="backend 'native' cannot be used: the compiled kernel has no torch.float64"):
        function(*(x.double() for x in inputs), backend="native", **options)


def _digest(case: str, queue: multiprocessing.Queue) -> None:
    torch.set_num_threads(1)  # as a DataLoader's workers do: OpenMP's threads do not survive a fork, in torch's own ops neither
    queue.put([x.double().sum().item() for x in results(case, many(case), "native")])


@needs_native
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_works_after_fork():
    expected = [x.double().sum().item() for x in results("norm", many("norm"), "native")]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_digest, args=("norm", queue), daemon=True)  # a child that hangs ends with the test
    child.start()
    assert queue.get(timeout=60) == expected
    child.join(timeout=60)


@needs_native
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_gives_the_same_answer(isa):
    code = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("cases", {__file__!r})
cases = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cases)
for case in cases.CASES:
    for channels in (7, 65):
        inputs = cases.inputs_of(case, channels)
        want = cases.results(case, inputs, "reference", cases.torch.float64)
        cases.assert_close(cases.results(case, inputs, "native"), want, 1, 1e-5, 1e-4)
print(cases.REASON)
"""
    environment = {**os.environ, "GEOVIT_ISA": isa, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    if "but this CPU has" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{isa} kernels")
