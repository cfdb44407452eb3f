import os
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from geovit.core.native import native_status
from geovit.core.ops.affine_act import Affine, affine_act, norm_affine
from geovit.core.ops.conv import conv, conv_moments
from geovit.core.ops.instance_norm_act import instance_norm_act

needs_native = pytest.mark.skipif(not native_status()[0], reason=native_status()[1])
NATIVE = pytest.param("native", marks=needs_native)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 8e-3}  # of the largest number; bfloat16 rounds to 4e-3


def inputs(batch, size, dim, beside, out, kernel=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    axes = len(size)
    shapes = ((batch, *size, dim), (out, dim + beside, *(kernel,) * axes), (out,), (batch, *size, beside), (batch, *size, out))
    x, weight, bias, more, grad = (torch.randn(*shape, generator=generator).to(dtype) for shape in shapes)
    weight = weight / weight[0].numel() ** 0.5  # results are about 1 large, where activations bend
    return [x, weight, bias, *([more] if beside else [])], grad


def results(backend, given, grad, dtype, **options):
    leaves = [t.detach().to(dtype).requires_grad_() for t in given]
    y = conv(*leaves[:3], beside=leaves[3] if len(leaves) > 3 else None, backend=backend, **options)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad.to(dtype))]


def error(got, want):
    return float((got.double() - want.double()).abs().max() / want.double().abs().max())


def compare(backend, dtype, given, grad, **options):
    want = results("reference", given, grad, torch.float64, **options)
    got = results(backend, given, grad, dtype, **options)
    assert all(g.dtype == dtype and g.shape == w.shape for g, w in zip(got, want, strict=True))
    assert max(error(g, w) for g, w in zip(got, want, strict=True)) <= TOLERANCE[dtype]
    alone = conv(*given[:3], beside=given[3] if len(given) > 3 else None, backend=backend, **options)
    assert alone.is_contiguous()
    assert error(alone, want[0]) <= TOLERANCE[dtype]


SIZES = [(1, 1, 1), (2, 3, 9), (4, 4, 4), (3, 6, 5), (9, 5, 13)]
CHANNELS = [(1, 0, 16), (3, 0, 5), (16, 0, 16), (17, 0, 33), (48, 0, 24), (20, 17, 30)]


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("dim", "beside", "out"), CHANNELS)
def test_volumes_and_all_gradients_agree_with_the_reference(dtype, size, dim, beside, out):
    compare("native", dtype, *inputs(2, size, dim, beside, out, dtype=dtype))


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("dim", "beside", "out"), [(1, 0, 16), (17, 0, 20), (16, 17, 18)])
def test_large_volumes_are_taken_to_more_points(dtype, dim, beside, out):
    compare("native", dtype, *inputs(2, (17, 18, 21), dim, beside, out, dtype=dtype))


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(1,), (70,), (7, 9), (5, 6, 7)])
@pytest.mark.parametrize(("dim", "beside", "out"), [(1, 0, 1), (3, 0, 17), (48, 0, 48), (20, 9, 70)])
def test_maps_of_positions_and_all_gradients_agree_with_the_reference(dtype, size, dim, beside, out):
    compare("native", dtype, *inputs(2, size, dim, beside, out, kernel=1, dtype=dtype))


@pytest.mark.parametrize("backend", ["eager", NATIVE])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "gelu", "silu"])
def test_activations(backend, kernel, activation):
    given, grad = inputs(1, (5, 6, 7), 16, 0, 20, kernel=kernel)
    compare(backend, torch.float32, given, grad, activation=activation, slope=0.2)


@needs_native
def test_error_stays_small_on_many_channels_and_far_from_zero():
    for shift in (0, 10):
        x, weight, bias = inputs(1, (13, 12, 12), 96, 0, 48)[0]
        want = conv(x.double() + shift, weight.double(), bias.double(), backend="eager")
        assert error(conv(x + shift, weight, bias, backend="native"), want) <= 1e-5


@needs_native
def test_what_is_not_a_number_spreads_inside_its_tiles_only():
    x, weight, _ = inputs(2, (12, 8, 8), 16, 0, 16)[0]
    clean = conv(x, weight, backend="native")
    x[1, 5, 2, 2] = torch.nan
    y = conv(x, weight, backend="native")
    assert y[1, 4:7, 1:4, 1:4].isnan().all()
    assert torch.equal(y[0], clean[0])
    assert torch.equal(y[1, 8:], clean[1, 8:])
    assert torch.equal(y[1, :, 4:], clean[1, :, 4:])


@needs_native
@pytest.mark.parametrize("kernel", [1, 3])
def test_nothing_beside_the_tensors_is_read(kernel):
    given, grad = inputs(1, (5, 4, 6), 3, 0, 7, kernel=kernel)
    want = results("native", given, grad, torch.float32)

    def poisoned(t):
        room = torch.full((t.numel() + 128,), torch.nan)
        room[64:-64] = t.flatten()
        return room[64:-64].view(t.shape)

    leaves = [poisoned(t).requires_grad_() for t in given]
    y = conv(*leaves, backend="native")
    got = [y.detach(), *torch.autograd.grad(y, leaves, poisoned(grad))]
    assert all(torch.equal(g, w) for g, w in zip(got, want, strict=True))


@needs_native
@pytest.mark.parametrize("kernel", [1, 3])
def test_strided_inputs_and_threads_change_nothing(kernel):
    given, grad = inputs(2, (9, 8, 10), 20, 16, 24, kernel=kernel)
    want = results("native", given, grad, torch.float32)
    x, weight, more = (t.movedim(-1, 1).contiguous().movedim(1, -1) for t in (given[0], given[1], given[3]))
    assert torch.equal(conv(x, weight, given[2], beside=more, backend="native"), want[0])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        got = results("native", given, grad, torch.float32)
    finally:
        torch.set_num_threads(threads)
    tolerance = 0 if kernel == 3 else 1e-5  # the kernel gradient of a map is a matrix product of PyTorch
    assert all(error(g, w) <= tolerance for g, w in zip(got, want, strict=True))
    assert conv(given[0][:0], given[1], given[2], beside=given[3][:0], backend="native").shape == (0, 9, 8, 10, 24)


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 2, 2), (3, 3, 3), (6, 6, 7)])
@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_repeat_on_volumes_of_all_sizes(size, autocast):
    given, grad = inputs(1, size, 96, 32, 64)
    leaves = [t.requires_grad_() for t in given]

    def gradients():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            y = conv(*leaves[:3], beside=leaves[3])
        return torch.autograd.grad(y, leaves, grad.to(y.dtype))

    want = gradients()
    for _ in range(5):
        assert all(torch.equal(g, w) for g, w in zip(gradients(), want, strict=True))


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 5, 3)])
def test_few_positions_of_eager_agree_with_the_reference(kernel):
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(*shape, generator=generator) for shape in ((2, 3, 4, 5, 18), (7, 18, *kernel), (7,))]
    grad = torch.randn(2, 3, 4, 5, 7, generator=generator)
    compare("eager", torch.float32, given, grad, activation="gelu")


@needs_native
@pytest.mark.parametrize("kernel", [1, 3])
def test_autocast_takes_bfloat16_and_keeps_gradients_in_float32(kernel):
    given, grad = inputs(1, (6, 8, 8), 24, 0, 20, kernel=kernel)
    want = results("reference", given, grad, torch.float64)
    leaves = [t.requires_grad_() for t in given]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = conv(*leaves)
    assert y.dtype == torch.bfloat16
    got = [y.detach(), *torch.autograd.grad(y, leaves, grad.bfloat16())]
    assert all(g.dtype == torch.float32 for g in got[1:])
    assert max(error(g, w) for g, w in zip(got, want, strict=True)) <= 2e-2


@pytest.mark.parametrize("backend", ["eager", NATIVE])
@pytest.mark.parametrize(("size", "dim", "beside", "out", "kernel"), [((5, 9, 6), 20, 17, 33, 3), ((9, 20, 13), 20, 9, 24, 1)])
def test_moments_are_those_of_the_result(backend, size, dim, beside, out, kernel):
    given, _ = inputs(2, size, dim, beside, out, kernel=kernel)
    bias = given[2] * 10  # far from zero against the deviation
    y, mean, variance = conv_moments(given[0], given[1], bias, beside=given[3], backend=backend)
    assert error(y, conv(given[0], given[1], bias, beside=given[3], backend="reference")) <= 1e-5
    want_variance, want_mean = torch.var_mean(y.double().flatten(1, -2), 1, correction=0)
    assert error(mean, want_mean) <= 1e-6
    torch.testing.assert_close(variance.double(), want_variance, rtol=1e-5, atol=1e-5)
    normed = affine_act(y, norm_affine(mean, variance), slope=0.01)
    torch.testing.assert_close(normed, instance_norm_act(y, activation="leaky_relu", slope=0.01), rtol=1e-5, atol=1e-5)


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("dim", "kernel"), [(24, 3), (3, 3), (24, 1)])
def test_a_norm_before_is_applied_inside_the_volume_only(dtype, dim, kernel):
    (x, weight, bias), _ = inputs(2, (5, 9, 6), dim, 0, 20, kernel=kernel, dtype=dtype)
    before = Affine(*(torch.randn(2, dim, generator=torch.Generator().manual_seed(i)) for i in range(3)))
    ready = affine_act(x.double(), Affine(*(t.double() for t in before)), slope=0.1, backend="reference")
    want = conv(ready, weight.double(), bias.double(), backend="reference")
    y, mean, _ = conv_moments(x, weight, bias, before=before, before_slope=0.1, backend="native")
    assert error(y, want) <= TOLERANCE[dtype]
    assert error(mean, want.mean((1, 2, 3))) <= TOLERANCE[dtype]


@needs_native
def test_sums_over_many_channels_keep_their_precision():
    given, _ = inputs(1, (24, 24, 24), 1024, 0, 8)
    y = conv(given[0], given[1], given[2], backend="native")
    want = conv(*(t.double() for t in given[:3]), backend="eager")
    assert error(y, want) <= TOLERANCE[torch.float32]


@needs_native
@pytest.mark.parametrize(("dim", "beside", "out"), [(2, 0, 5), (18, 30, 48), (96, 96, 33), (17, 0, 16)])
def test_maps_of_positions_err_in_bfloat16_no_more_than_pytorch(dim, beside, out):
    generator = torch.Generator().manual_seed(0)
    x, more = (torch.randn(2, 5, 9, 7, n, generator=generator).bfloat16() for n in (dim, beside))
    weight = torch.randn(out, dim + beside, 1, 1, 1, generator=generator).bfloat16()
    want = conv(torch.cat((x, more), -1).double(), weight.double(), backend="reference")
    worst = [float((conv(x, weight, beside=more if beside else None, backend=b) - want).abs().max()) for b in ("native", "eager")]
    assert worst[0] <= 1.01 * worst[1]


def test_moments_have_gradients_in_eager():
    given, _ = inputs(1, (4, 5, 6), 3, 0, 4)
    leaves = [t.double().requires_grad_() for t in given]
    assert torch.autograd.gradcheck(conv_moments, leaves)


@needs_native
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_agrees_with_the_reference_on_poisoned_memory(isa):
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
import test_conv_volume as t
for dtype in (torch.float32, torch.bfloat16):
    for size in ((4, 6, 5), (17, 9, 10)):
        for dim, beside, out in ((1, 0, 16), (3, 0, 5), (20, 17, 30)):
            for kernel in (1, 3):
                t.compare("native", dtype, *t.inputs(2, size, dim, beside, out, kernel=kernel, dtype=dtype))
    for dim, kernel in ((24, 3), (3, 3), (24, 1)):
        t.test_a_norm_before_is_applied_inside_the_volume_only(dtype, dim, kernel)
t.test_moments_are_those_of_the_result("native", (5, 9, 6), 20, 17, 33, 3)
print(t.native_status()[1])
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


@needs_native
def test_ops_are_registered_as_torch_wants_them():
    (x, weight, bias, more), grad = inputs(1, (3, 5, 4), 16, 17, 18)
    numbers = torch.randn(1, 16)
    ops = torch.ops.geovit
    for arguments in (
        (x, more, weight, bias, None, None, None, 0.0, 0.1, True),
        (x, None, weight[:, :16].contiguous(), None, numbers, numbers, numbers, 0.1, 1.0, False),
    ):
        torch.library.opcheck(ops.conv3x3x3.default, arguments)
    torch.library.opcheck(ops.conv3x3x3_weight.default, (x, more, grad))
    matrix = torch.randn(1, 18, 1, 33)
    torch.library.opcheck(ops.blocks_linear.default, (x, more, matrix, bias, 1, 1, 1, 1, 1, 1, 1.0, True))


@needs_native
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compiles_whole(compiler):
    given, _ = inputs(1, (6, 6, 6), 16, 16, 18)
    small = torch.randn(5, 18, 1, 1, 1, requires_grad=True)
    leaves = [*(t.requires_grad_() for t in given), small]

    def function(x, weight, bias, more, last):
        y = conv(x, weight, bias, beside=more, activation="leaky_relu", backend="native")
        return conv(y, last, backend="native")

    compiled = torch.compile(function, fullgraph=True, backend=compiler)
    got = torch.autograd.grad(compiled(*leaves).square().sum(), leaves)
    want = torch.autograd.grad(function(*leaves).square().sum(), leaves)
    assert max(error(g, w) for g, w in zip(got, want, strict=True)) <= 1e-5


def test_auto_is_torchs_result_and_mistakes_are_named():
    (x, weight, bias, more), _ = inputs(1, (3, 3, 3), 6, 4, 8)
    want = F.conv3d(torch.cat((x, more), -1).movedim(-1, 1), weight, bias, padding=1).movedim(1, -1)
    torch.testing.assert_close(conv(x, weight, bias, beside=more), want, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"beside \[1, 3, 3, 2, 4\]"):
        conv(x, weight, bias, beside=more[:, :, :, :2])
    with pytest.raises(ValueError, match="x, beside, weight and bias are torch.float32 on cpu, torch.float64"):
        conv(x, weight, bias, beside=more.double())
    with pytest.raises(ValueError, match="before and beside are given together"):
        conv_moments(x, weight, bias, beside=more, before=Affine(*torch.zeros(3, 1, 6)))
