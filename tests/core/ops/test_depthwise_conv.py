import pytest
import torch
from torch.nn import functional as F

from geovit.core.native import native_status
from geovit.core.ops.depthwise_conv import depthwise_conv

needs_native = pytest.mark.skipif(not native_status()[0], reason=native_status()[1])


@pytest.mark.parametrize("kernel", [(3,), (5, 3), (3, 5, 7)])
def test_is_torchs_convolution_with_a_group_for_each_channel(kernel):
    convolve = (F.conv1d, F.conv2d, F.conv3d)[len(kernel) - 1]
    x, weight, bias = torch.randn(2, 6, *(9, 8, 7)[: len(kernel)]), torch.randn(6, 1, *kernel), torch.randn(6)
    want = convolve(x, weight, bias, padding=[k // 2 for k in kernel], groups=6)
    got = depthwise_conv(x.movedim(1, -1), weight, bias).movedim(-1, 1)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["reference", "eager", pytest.param("native", marks=needs_native)])
def test_causal_outputs_do_not_see_the_future(backend):
    x, weight = torch.randn(1, 40, 20), torch.randn(20, 1, 4)
    later = x.clone()
    later[:, 25:] += 1
    before, after = (depthwise_conv(z, weight, sees="before", activation="silu", backend=backend) for z in (x, later))
    torch.testing.assert_close(after[:, :25], before[:, :25], rtol=0, atol=1e-6)
    assert (after[:, 25] != before[:, 25]).all()


@pytest.mark.parametrize("backend", ["reference", "eager", pytest.param("native", marks=needs_native)])
@pytest.mark.parametrize("kernel", [(4,), (2, 3), (3, 2, 4)])
def test_after_is_before_on_the_image_turned_round(kernel, backend):
    x, weight = torch.randn(2, *(9, 8, 7)[: len(kernel)], 6, requires_grad=True), torch.randn(6, 1, *kernel, requires_grad=True)
    axes = list(range(1, x.ndim - 1))
    after = depthwise_conv(x, weight, sees="after", backend=backend)
    turned = depthwise_conv(x.flip(axes), weight, sees="before", backend=backend).flip(axes)
    torch.testing.assert_close(after, turned, rtol=1e-5, atol=1e-5)
    for got, want in zip(*(torch.autograd.grad(y.square().sum(), (x, weight)) for y in (after, turned)), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@needs_native
@pytest.mark.parametrize("length", [1, 7, 63, 64, 65, 127, 128, 129, 257])
@pytest.mark.parametrize("kernel", [1, 2, 4, 9])
def test_every_length_around_the_pieces_and_every_kernel(length, kernel):
    torch.manual_seed(0)
    x, weight = torch.randn(1, length, 17), torch.randn(17, 1, kernel)
    results = []
    for dtype, backend in ((torch.float32, "native"), (torch.float64, "reference")):
        leaves = [t.to(dtype).requires_grad_() for t in (x, weight)]
        y = depthwise_conv(*leaves, sees="before", backend=backend)
        weights = torch.sin(torch.arange(y.numel(), dtype=torch.float32)).view(y.shape).to(dtype)
        results.append([t.double() for t in (y, *torch.autograd.grad(y, leaves, weights))])
    for got, want in zip(*results, strict=True):
        assert (got - want).abs().max() <= 1e-5 * want.abs().max()


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 3, 4, 7, 8, 15, 16, 17, 36])
def test_without_gradients_the_activation_is_applied_once(channels, dtype):
    torch.manual_seed(0)
    x, weight = torch.randn(1, 3, 5, channels, dtype=dtype), torch.randn(channels, 1, 3, 3, dtype=dtype)
    want = depthwise_conv(x.double(), weight.double(), activation="silu", backend="reference")
    with torch.no_grad():
        got = depthwise_conv(x, weight, activation="silu", backend="native").double()
    assert (got - want).abs().max() <= (1e-5 if dtype == torch.float32 else 2e-2) * want.abs().max()


@needs_native
def test_frozen_kernel_or_input_gets_no_gradient():
    x, weight = torch.randn(1, 5, 5, 8), torch.randn(8, 1, 3, 3)
    for free in (0, 1):
        leaves = [t.clone().requires_grad_(i == free) for i, t in enumerate((x, weight))]
        depthwise_conv(*leaves, activation="gelu", backend="native").sum().backward()
        assert [leaf.grad is not None for leaf in leaves] == [free == 0, free == 1]


@pytest.mark.parametrize(
    ("x", "weight", "sees", "told"),
    [
        ((1, 5, 4), (4, 1, 2), "around", r"kernel sizes must be odd, got \[2\]"),
        ((1, 5, 5, 4), (4, 1, 3, 3), "under", r"sees is 'under', allowed are around, before, after"),
        ((1, 5, 5, 4), (4, 1, 3), "around", r"weight must be .* shape \[4, 1, 'kernel', 'kernel'\] on cpu, got \[4, 1, 3\]"),
        ((1, 5, 4), (3, 1, 3), "around", r"weight must be .* shape \[4, 1, 3\] on cpu, got \[3, 1, 3\]"),
        ((1, 2, 2, 2, 2, 4), (4, 1, 1, 1, 1, 1), "around", r"1 to 3 axes, channels\) with channels, got \[1, 2, 2, 2, 2, 4\]"),
    ],
)
def test_mistakes_are_described(x, weight, sees, told):
    with pytest.raises(ValueError, match=told):
        depthwise_conv(torch.zeros(x), torch.zeros(weight), sees=sees)
