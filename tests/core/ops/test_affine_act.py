import pytest
import torch

from geovit.core.native import native_status
from geovit.core.ops.affine_act import Affine, affine_act, norm_affine

needs_native = pytest.mark.skipif(not native_status()[0], reason=native_status()[1])
NATIVE = pytest.param("native", marks=needs_native)


def inputs(size, channels, dtype):
    generator = torch.Generator().manual_seed(0)
    x, residual = (torch.randn(2, *size, channels, generator=generator).to(dtype) for _ in range(2))
    maps = [Affine(*torch.randn(3, 2, channels, generator=generator)) for _ in range(2)]
    return x, maps[0], residual, maps[1]


@pytest.mark.parametrize("backend", ["eager", NATIVE])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 8e-3)])
@pytest.mark.parametrize("size", [(3,), (5, 7), (20, 30, 4)])
@pytest.mark.parametrize("channels", [1, 16, 19, 48])
def test_agrees_with_the_reference(backend, dtype, tolerance, size, channels):
    x, affine, residual, beside = inputs(size, channels, dtype)
    for rest in ((), (residual,), (residual, beside)):
        want = affine_act(
            x.double(), affine, *(t.double() if isinstance(t, torch.Tensor) else t for t in rest), slope=0.1, backend="reference"
        )
        got = affine_act(x, affine, *rest, slope=0.1, backend=backend)
        assert got.dtype == dtype
        assert float((got - want).abs().max() / want.abs().max()) <= tolerance


@pytest.mark.parametrize("backend", ["eager", NATIVE])
def test_is_the_instance_norm_of_known_moments(backend):
    x = torch.randn(2, 6, 7, 5) * 3 + 4
    weight, bias = torch.randn(5), torch.randn(5)
    variance, mean = torch.var_mean(x.flatten(1, 2), 1, correction=0)
    want = torch.nn.functional.instance_norm(x.movedim(-1, 1), weight=weight, bias=bias).movedim(1, -1)
    got = affine_act(x, norm_affine(mean, variance, weight, bias), backend=backend)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_auto_has_gradients():
    x, affine, residual, beside = inputs((3, 4), 5, torch.float64)
    x.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda t: affine_act(t, Affine(*(n.double() for n in affine)), residual, beside, slope=0.1), x
    )


@needs_native
def test_op_is_registered_and_compiles_whole():
    x, affine, residual, beside = inputs((3, 4), 18, torch.float32)
    torch.library.opcheck(
        torch.ops.geovit.affine_act.default, (x.flatten(1, 2), torch.stack(affine), residual.flatten(1, 2), None, 0.1)
    )
    compiled = torch.compile(affine_act, fullgraph=True, backend="inductor")
    torch.testing.assert_close(
        compiled(x, affine, residual, beside), affine_act(x, affine, residual, beside), rtol=1e-5, atol=1e-5
    )


def test_mistakes_are_named():
    x, affine, _, beside = inputs((3, 4), 5, torch.float32)
    with pytest.raises(ValueError, match="residual_affine is given without a residual"):
        affine_act(x, affine, None, beside)
    with pytest.raises(ValueError, match=r"affine must be a floating tensor of shape \[2, 5\]"):
        affine_act(x, Affine(*(t[:1] for t in affine)))
    if native_status()[0]:
        with pytest.raises(ValueError, match="it has no gradient"):
            affine_act(x.requires_grad_(), affine, backend="native")
