import pytest
import torch
from torch.nn import functional as F

from geovit.core.native import native_status
from geovit.core.ops.conv_transpose import conv_transpose

needs_native = pytest.mark.skipif(not native_status()[0], reason=native_status()[1])
NATIVE = pytest.param("native", marks=needs_native)
TORCHS = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
CASES = [((6,), (4,), 5, 33), ((5, 7), (2, 3), 17, 9), ((3, 4, 5), (2, 2, 2), 20, 24), ((3, 1, 60), (1, 2, 2), 48, 16)]


def inputs(size, kernel, dim, out, dtype):
    generator = torch.Generator().manual_seed(0)
    grown = [s * k for s, k in zip(size, kernel, strict=True)]
    shapes = ((2, *size, dim), (dim, out, *kernel), (out,), (2, *grown, out))
    return [torch.randn(*shape, generator=generator).to(dtype) for shape in shapes]


def results(backend, dtype, x, weight, bias, grad):
    leaves = [t.detach().to(dtype).requires_grad_() for t in (x, weight, bias)]
    y = conv_transpose(*leaves, backend=backend)
    assert y.is_contiguous()
    return [y.detach(), *torch.autograd.grad(y, leaves, grad.to(dtype))]


@pytest.mark.parametrize(("size", "kernel", "dim", "out"), CASES)
def test_is_torchs_transposed_convolution(size, kernel, dim, out):
    x, weight, bias, _ = inputs(size, kernel, dim, out, torch.float64)
    want = TORCHS[len(size)](x.movedim(-1, 1), weight, bias, stride=kernel).movedim(1, -1)
    torch.testing.assert_close(conv_transpose(x, weight, bias, backend="reference"), want)


@pytest.mark.parametrize("backend", ["eager", NATIVE])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 8e-3)])
@pytest.mark.parametrize(("size", "kernel", "dim", "out"), CASES)
def test_output_and_all_gradients_agree_with_the_reference(backend, dtype, tolerance, size, kernel, dim, out):
    given = inputs(size, kernel, dim, out, dtype)
    want = results("reference", torch.float64, *given)
    for got, exact in zip(results(backend, dtype, *given), want, strict=True):
        assert got.shape == exact.shape
        assert float((got - exact).abs().max() / exact.abs().max()) <= tolerance


@needs_native
@pytest.mark.parametrize(("size", "kernel", "dim", "out"), [((3, 4, 5), (2, 2, 2), 20, 24), ((3, 1, 61), (1, 2, 2), 48, 17)])
def test_native_errs_in_bfloat16_no_more_than_pytorch(size, kernel, dim, out):
    x, weight, bias, _ = inputs(size, kernel, dim, out, torch.bfloat16)
    want = conv_transpose(x.double(), weight.double(), bias.double(), backend="reference")
    worst = [float((conv_transpose(x, weight, bias, backend=b) - want).abs().max()) for b in ("native", "eager")]
    assert worst[0] <= 1.01 * worst[1]


@needs_native
def test_strided_inputs_and_threads_change_nothing():
    x, weight, bias, _ = inputs((6, 7, 8), (2, 2, 2), 24, 20, torch.float32)
    want = conv_transpose(x, weight, bias, backend="native")
    strided = x.movedim(-1, 1).contiguous().movedim(1, -1), weight.movedim(0, -1).contiguous().movedim(-1, 0), bias
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(conv_transpose(*strided, backend="native"), want)
    finally:
        torch.set_num_threads(threads)
    assert conv_transpose(x[:0], weight, backend="native").shape == (0, 12, 14, 16, 20)


@needs_native
def test_op_is_registered_and_compiles_whole():
    x, weight, bias, grad = inputs((3, 4, 5), (2, 2, 2), 6, 7, torch.float32)
    matrix = torch.randn(8, 7, 1, 6)
    torch.library.opcheck(torch.ops.geovit.blocks_linear.default, (x, None, matrix, bias, 1, 1, 1, 2, 2, 2, 1.0, False))
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    compiled = torch.compile(conv_transpose, fullgraph=True, backend="inductor")
    got = torch.autograd.grad(compiled(*leaves), leaves, grad)
    want = torch.autograd.grad(conv_transpose(*leaves), leaves, grad)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


def test_autocast_and_mistakes():
    x, weight, bias, _ = inputs((3, 4), (2, 2), 6, 7, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert conv_transpose(x, weight, bias).dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"x \[2, 3, 4, 6\], weight \[5, 7, 2, 2\]"):
        conv_transpose(x, weight[:5], bias)
    with pytest.raises(ValueError, match="torch.float32 on cpu, torch.float64 on cpu"):
        conv_transpose(x, weight.double())
    with pytest.raises(ValueError, match="'fast', allowed are auto"):
        conv_transpose(x, weight, backend="fast")
