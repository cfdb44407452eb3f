import pytest
import torch

from geovit.core.device import cpu_vendor
from geovit.core.layers.linear import Linear
from geovit.core.native import multiplies_bfloat16, native_status
from geovit.core.ops.linear import _choose, choose_backend, linear, onednn

needs_onednn = pytest.mark.skipif(not onednn.AVAILABLE, reason="this PyTorch has no oneDNN")
needs_native = pytest.mark.skipif(not native_status()[0], reason=native_status()[1])
FAST = ["eager", pytest.param("onednn", marks=needs_onednn)]
NATIVE = pytest.param("native", marks=needs_native)
needs_products = pytest.mark.skipif(not multiplies_bfloat16(), reason="no compiled products of bfloat16 on this CPU")


def inputs(rows, width, out, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator).to(dtype) for shape in ((*rows, width), (out, width), (out,))]


def results(backend, x, weight, bias, grad, **options):
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
    y = linear(*leaves, backend=backend, **options)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)]


def error(got, want):
    return float((got.double() - want).abs().max() / want.abs().max())


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(
    ("rows", "width", "out"), [((1,), 1, 1), ((7,), 63, 65), ((2, 5, 64), 16, 48), ((3, 100), 48, 16), ((65,), 7, 130)]
)
def test_output_and_all_gradients_agree_with_the_reference(backend, rows, width, out):
    x, weight, bias = inputs(rows, width, out)
    grad = torch.randn(*rows, out, generator=torch.Generator().manual_seed(1))
    want = results("reference", *(t.double() for t in (x, weight, bias, grad)))
    got = results(backend, x, weight, bias, grad)
    assert error(got[0], want[0]) <= 1e-5
    assert all(error(g, w) <= 1e-4 for g, w in zip(got[1:], want[1:], strict=True))


@needs_native
@pytest.mark.parametrize(
    ("rows", "width", "out"), [((1,), 1, 16), ((2, 49), 17, 31), ((2, 5, 64), 16, 48), ((3, 100), 45, 33), ((65,), 7, 130)]
)
def test_native_agrees_with_the_reference(rows, width, out):
    test_output_and_all_gradients_agree_with_the_reference("native", rows, width, out)


@needs_products
@pytest.mark.parametrize("activation", ["none", "gelu"])
@pytest.mark.parametrize(
    ("rows", "width", "out"), [((1,), 2, 16), ((2, 49), 18, 31), ((3, 100), 46, 33), ((65,), 6, 130), ((50,), 768, 48)]
)
def test_native_errs_in_bfloat16_no_more_than_pytorch(rows, width, out, activation):
    given = inputs(rows, width, out, torch.bfloat16)
    want = linear(*(t.double() for t in given), activation=activation, backend="reference")
    got, torchs = (linear(*given, activation=activation, backend=backend) for backend in ("native", "eager"))
    assert got.dtype == torch.bfloat16
    assert error(got, want) <= 4e-3  # rounding alone; the other adds up in float32, too, but rounds before the activation
    assert error(got, want) <= 1.01 * error(torchs, want)


@needs_products
def test_bfloat16_without_gradients_is_native_under_autocast_too():
    x, weight, bias = inputs((1024,), 64, 64)
    parameter = weight.clone().requires_grad_()
    want = linear(*(t.bfloat16() for t in (x, weight, bias)), backend="native")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            assert torch.equal(linear(x, parameter, bias), want)
        assert linear(x, parameter, bias).requires_grad
        with pytest.raises(ValueError, match="bfloat16 without a gradient"):
            linear(x, parameter, bias, backend="native")
    with pytest.raises(ValueError, match="an even number of channels"):
        linear(*(t.bfloat16() for t in inputs((1024,), 63, 64)), backend="native")


@pytest.mark.parametrize("backend", [*FAST, NATIVE])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "gelu", "silu"])
def test_activations_agree_with_the_reference_with_and_without_gradients(backend, activation):
    x, weight, bias = inputs((2, 35), 20, 49)
    grad = torch.randn(2, 35, 49, generator=torch.Generator().manual_seed(1))
    options = {"activation": activation, "slope": 0.2}
    want = results("reference", *(t.double() for t in (x, weight, bias, grad)), **options)
    got = results(backend, x, weight, bias, grad, **options)
    assert error(linear(x, weight, bias, backend=backend, **options), want[0]) <= 2e-6
    assert error(got[0], want[0]) <= 2e-6
    assert all(error(g, w) <= 1e-5 for g, w in zip(got[1:], want[1:], strict=True))


@pytest.mark.parametrize("backend", [*FAST, NATIVE])
def test_strided_inputs_and_gradients(backend):
    x, weight, bias = inputs((6, 5), 2 * 20, 30)
    x, weight = x.transpose(0, 1)[..., ::2], weight[:, ::2]
    grad = torch.randn(30, 6, 5).permute(2, 1, 0)
    want = results("reference", *(t.double() for t in (x, weight, bias, grad)))
    for got, expected in zip(results(backend, x, weight, bias, grad), want, strict=True):
        assert error(got, expected) <= 1e-5


@pytest.mark.parametrize("backend", [pytest.param("onednn", marks=needs_onednn), NATIVE])
def test_runs_are_equal_and_bias_is_optional(backend):
    x, weight, bias = inputs((200,), 96, 130)
    assert torch.equal(linear(x, weight, bias, backend=backend), linear(x, weight, bias, backend=backend))
    without = linear(x, weight, backend=backend)
    torch.testing.assert_close(without + bias, linear(x, weight, bias, backend=backend))


@needs_native
def test_native_does_not_depend_on_the_number_of_threads():
    given = inputs((500,), 70, 50)
    want, threads = linear(*given, backend="native"), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(linear(*given, backend="native"), want)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("fast", [pytest.param("onednn", marks=needs_onednn), NATIVE])
def test_second_derivatives_agree(fast):
    x, weight, _ = inputs((9,), 6, 16)
    found = []
    for backend in ("eager", fast):
        leaf = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(linear(leaf, weight, backend=backend).pow(3).sum(), leaf, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), leaf)[0])
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4 * found[0].abs().max().item())


@needs_onednn
def test_op_is_registered_as_torch_wants_it():
    x, weight, bias = inputs((5,), 6, 7)
    for arguments in ((x, weight, bias, "gelu", 0.0), (x.t().contiguous().t(), weight, None, "none", 0.0)):
        torch.library.opcheck(torch.ops.geovit.linear_onednn.default, arguments)


@needs_native
def test_native_op_is_registered_as_torch_wants_it():
    x, weight, bias = inputs((5,), 6, 17)
    for arguments in ((x, weight, bias, 3, 0.0), (x.t().contiguous().t(), weight, None, 0, 0.0)):
        torch.library.opcheck(torch.ops.geovit.linear.default, arguments)


@needs_onednn
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compiles_whole(compiler):
    x, weight, bias = inputs((1100,), 64, 64)
    weight.requires_grad_()

    def both(*tensors):
        return linear(*tensors, backend="onednn", activation="gelu") + linear(*tensors)

    compiled = torch.compile(both, fullgraph=True, backend=compiler)
    compiled(x, weight, bias).square().sum().backward()
    got, weight.grad = weight.grad, None
    both(x, weight, bias).square().sum().backward()
    torch.testing.assert_close(got, weight.grad, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, weight, bias), both(x, weight, bias))


@needs_onednn
@pytest.mark.parametrize("wrong", [torch.float64, torch.bfloat16])
def test_onednn_says_what_it_cannot_serve(wrong):
    with pytest.raises(ValueError, match="is for float32 on the CPU, got torch"):
        linear(*inputs((3,), 4, 5, wrong), backend="onednn")


@needs_onednn
def test_onednn_names_what_stands_in_the_way():
    x, weight, _ = inputs((3,), 4, 5)
    with torch.autocast("cpu"), pytest.raises(ValueError, match=r"got torch.float32 on cpu, torch.float64 on cpu$"):
        linear(x, weight.double(), backend="onednn")


@needs_onednn
@pytest.mark.parametrize(("rows", "width", "out"), [((0,), 4, 5), ((3,), 0, 5), ((3,), 4, 0), ((2, 0), 4, 5), ((3,), 0, 16)])
def test_empty_products(rows, width, out):
    x, weight, bias = (t.requires_grad_() for t in inputs(rows, width, out))
    results = []
    for backend in ("native" if out == 16 and native_status()[0] else "onednn", "eager"):
        y = linear(x, weight, bias, backend=backend)
        results.append([y, *torch.autograd.grad(y.sum(), (x, weight, bias))])
    torch.testing.assert_close(*results)


def test_tensors_of_several_dtypes_are_refused_but_under_autocast():
    x, weight, bias = inputs((3,), 4, 5)
    with pytest.raises(ValueError, match="torch.float32 on cpu, torch.float64 on cpu, torch.float32 on cpu, expected one dtype"):
        linear(x, weight.double(), bias)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(x.bfloat16(), weight, bias).dtype == torch.bfloat16


def test_wrong_shapes_and_names_are_named():
    x, weight, bias = inputs((3,), 4, 5)
    with pytest.raises(ValueError, match=r"x \[3, 4\], weight \[4, 5\]"):
        linear(x, weight.T)
    with pytest.raises(ValueError, match=r"bias \[4\]"):
        linear(x, weight, bias[1:])
    with pytest.raises(ValueError, match="'mkl', allowed are auto"):
        linear(x, weight, backend="mkl")
    with pytest.raises(ValueError, match="16 channels out or more, got .* and 5 out"):
        linear(x, weight, bias, backend="native")
    with pytest.raises(ValueError, match="'tanh', allowed are none"):
        linear(x, weight, activation="tanh")


def test_auto_is_eager_on_intel_and_for_other_dtypes():
    assert choose_backend(torch.device("cpu"), torch.bfloat16)[0] == "eager"
    assert _choose("GenuineIntel")[0] == _choose("")[0] == "eager"
    expected = "onednn" if onednn.AVAILABLE and torch.backends.mkl.is_available() else "eager"
    assert _choose("AuthenticAMD")[0] == ("native" if expected == "onednn" and native_status()[0] else expected)


def test_autocast_is_respected():
    x, weight, bias = inputs((600,), 96, 96)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16


def test_layer_has_the_names_of_pytorch_and_its_result():
    torch.manual_seed(0)
    ours, theirs = Linear(96, 260), torch.nn.Linear(96, 260)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(200, 96)
    torch.testing.assert_close(ours(x), theirs(x))


def test_vendor_is_a_word():
    assert cpu_vendor() == cpu_vendor().strip()
