import pytest
import torch
from torch.nn import functional as F

from geovit.core.layers.conv import Conv
from geovit.core.native import native_status
from geovit.core.ops.conv import choose_backend, conv

needs_native = pytest.mark.skipif(not native_status()[0], reason=native_status()[1])
NATIVE = pytest.param("native", marks=needs_native)


def inputs(batch, size, dim, out, kernel=(3, 3), dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = ((batch, *size, dim), (out, dim, *kernel), (out,))
    return [torch.randn(*shape, generator=generator).to(dtype) for shape in shapes]


def results(backend, x, weight, bias, grad, **options):
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
    y = conv(*leaves, backend=backend, **options)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)]


def error(got, want):
    return float((got.double() - want).abs().max() / want.abs().max())


def compare(backend, given, **options):
    x, _, bias = given
    grad = torch.randn(*x.shape[:-1], len(bias), generator=torch.Generator().manual_seed(1))
    want = results("reference", *(t.double() for t in (*given, grad)), **options)
    got = results(backend, *given, grad, **options)
    assert all(g.shape == w.shape and error(g, w) <= 1e-5 for g, w in zip(got, want, strict=True))
    alone = conv(*given, backend=backend, **options)
    assert alone.is_contiguous()
    assert error(alone, want[0]) <= 1e-5


@pytest.mark.parametrize("kernel", [(3,), (5, 3), (3, 1, 3)])
def test_is_torchs_convolution(kernel):
    x, weight, bias = inputs(2, (9, 8, 7)[: len(kernel)], 5, 6, kernel)
    want = (F.conv1d, F.conv2d, F.conv3d)[len(kernel) - 1](x.movedim(-1, 1), weight, bias, padding=[k // 2 for k in kernel])
    for backend in ("reference", "eager"):
        torch.testing.assert_close(conv(x, weight, bias, backend=backend).movedim(-1, 1), want, rtol=1e-5, atol=1e-5)
    compare("eager", (x, weight, bias))


@pytest.mark.parametrize("backend", ["eager", NATIVE])
@pytest.mark.parametrize("size", [(1, 1), (4, 4), (3, 9), (5, 13), (29, 31)])
@pytest.mark.parametrize(("dim", "out"), [(16, 16), (17, 33), (45, 30)])
def test_output_and_all_gradients_agree_with_the_reference(backend, size, dim, out):
    compare(backend, inputs(3, size, dim, out))


@pytest.mark.parametrize("backend", ["eager", NATIVE])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "gelu", "silu"])
def test_activations(backend, activation):
    compare(backend, inputs(1, (9, 6), 20, 24), activation=activation, slope=0.2)


@needs_native
def test_error_is_a_few_times_that_of_the_direct_sum_on_many_channels():
    x, weight, bias = inputs(1, (40, 40), 180, 60)
    want = conv(x.double(), weight.double(), bias.double(), backend="eager")
    assert error(conv(x, weight, bias, backend="native"), want) <= 5e-6
    want = conv(x.double() + 10, weight.double(), bias.double(), backend="eager")
    assert error(conv(x + 10, weight, bias, backend="native"), want) <= 5e-6


@needs_native
def test_every_output_depends_on_its_nine_inputs_alone():
    x, weight, _ = inputs(2, (12, 13), 16, 16)
    clean = conv(x, weight, backend="native")
    x[1, 5, 6] = torch.nan
    y = conv(x, weight, backend="native")
    # A tile shares its sums: what is not a number spreads inside tiles of 4 x 4, and nowhere else.
    assert y[1, 4:7, 5:8].isnan().all()
    torch.testing.assert_close(y[0], clean[0], rtol=0, atol=0)
    torch.testing.assert_close(y[1, :, 8:], clean[1, :, 8:], rtol=0, atol=0)


@needs_native
def test_strided_inputs_and_threads_change_nothing():
    x, weight, bias = inputs(2, (11, 10), 40, 20)
    want = conv(x, weight, bias, backend="native")
    strided = x.movedim(-1, 1).contiguous().movedim(1, -1), weight.contiguous(memory_format=torch.channels_last), bias
    assert torch.equal(conv(*strided, backend="native"), want)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(conv(x, weight, bias, backend="native"), want)
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(conv(x, weight, backend="native") + bias, want, rtol=1e-5, atol=1e-5)
    assert conv(x[:0], weight, bias, backend="native").shape == (0, 11, 10, 20)


@needs_native
def test_op_is_registered_as_torch_wants_it():
    x, weight, bias = inputs(1, (5, 6), 16, 18)
    for arguments in ((x, weight, bias, 3, 0.0), (x, weight, None, 0, 0.0)):
        torch.library.opcheck(torch.ops.geovit.conv3x3.default, arguments)


@needs_native
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compiles_whole(compiler):
    x, weight, bias = inputs(1, (12, 12), 16, 18)
    weight.requires_grad_()

    def function(*tensors):
        return conv(*tensors, activation="gelu")

    compiled = torch.compile(function, fullgraph=True, backend=compiler)
    compiled(x, weight, bias).square().sum().backward()
    got, weight.grad = weight.grad, None
    function(x, weight, bias).square().sum().backward()
    torch.testing.assert_close(got, weight.grad, rtol=1e-4, atol=1e-4)


def test_auto_under_autocast_and_for_what_the_kernel_does_not_serve():
    x, weight, bias = inputs(1, (12, 12), 16, 18)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert conv(x, weight, bias).dtype == torch.bfloat16
    narrow = inputs(1, (12, 12), 3, 18)
    torch.testing.assert_close(conv(*narrow), conv(*narrow, backend="eager"), rtol=0, atol=0)
    assert choose_backend(torch.device("cpu"), torch.float64)[0] == "eager"
    assert conv(*(t.double() for t in (x, weight, bias))).dtype == torch.float64


def test_mistakes_are_named():
    x, weight, bias = inputs(1, (5, 6), 4, 8)
    with pytest.raises(ValueError, match=r"x \[1, 5, 6, 4\], weight \[8, 4, 2, 3\]"):
        conv(x, weight[:, :, :2])
    with pytest.raises(ValueError, match=r"bias \[4\]"):
        conv(x, weight, bias[:4])
    with pytest.raises(ValueError, match="torch.float32 on cpu, torch.float64 on cpu"):
        conv(x, weight.double(), bias)
    with pytest.raises(ValueError, match="'tanh', allowed are none"):
        conv(x, weight, activation="tanh")
    with pytest.raises(ValueError, match="'fast', allowed are auto"):
        conv(x, weight, backend="fast")
    if native_status()[0]:
        with pytest.raises(ValueError, match="take 3 x 3 and 16 or more channels"):
            conv(x, weight, backend="native")


@pytest.mark.parametrize("kernel", [(3,), (3, 3), (1, 5, 3)])
def test_layer_has_the_parameters_of_torchs(kernel):
    layer = Conv(18, 20, kernel=kernel, activation="leaky_relu", slope=0.2)
    theirs = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)[len(kernel) - 1](18, 20, kernel, padding="same")
    theirs.load_state_dict(layer.state_dict())
    x = torch.randn(2, *(12, 13, 7)[: len(kernel)], 18)
    want = F.leaky_relu(theirs(x.movedim(-1, 1)), 0.2).movedim(1, -1)
    torch.testing.assert_close(layer(x), want, rtol=1e-4, atol=1e-5)
    assert Conv(3, 4, bias=False).bias is None


def test_layer_names_mistakes():
    with pytest.raises(ValueError, match=r"kernel is \(2, 3\)"):
        Conv(3, 4, kernel=(2, 3))
    with pytest.raises(ValueError, match="activation is 'tanh'"):
        Conv(3, 4, activation="tanh")
