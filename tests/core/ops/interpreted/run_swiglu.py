import pytest
import torch

from geovit.core.ops.swiglu import swiglu


def results(inputs: list[torch.Tensor], backend: str) -> list[torch.Tensor]:
    out = swiglu(*inputs, backend=backend)
    weight = torch.linspace(-1, 2, out.numel()).to(out.dtype).view(out.shape)
    return [out, *torch.autograd.grad(out, inputs, weight)]


def make(*shape: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(len(shape))
    return [torch.randn(shape, generator=generator).mul(4).to(dtype).requires_grad_() for _ in range(2)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float16, 2e-3)])
@pytest.mark.parametrize("size", [0, 1, 63, 1024, 1025])
def test_agrees_with_the_reference(size, dtype, tolerance):
    inputs = make(size, dtype=dtype)
    wide = [x.detach().double().requires_grad_() for x in inputs]
    for got, want in zip(results(inputs, "triton"), results(wide, "reference"), strict=True):
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance)


def test_strides_do_not_matter():
    gate, value = make(30, 7)
    got, want = (results([gate.t(), value.t()], backend) for backend in ("triton", "reference"))
    torch.testing.assert_close(got, want)


def test_ops_are_registered_as_torch_expects():
    gate, value = (x.detach().t() for x in make(5, 20))
    torch.library.opcheck(torch.ops.geovit.swiglu_triton.default, (gate, value))
    torch.library.opcheck(torch.ops.geovit.swiglu_triton_backward.default, (value, gate, value))


def test_compiles_as_one_graph():
    inputs = make(100)
    compiled = torch.compile(lambda *x: swiglu(*x, backend="triton").square().sum(), fullgraph=True, backend="aot_eager")
    got = torch.autograd.grad(compiled(*inputs), inputs)
    want = torch.autograd.grad(swiglu(*inputs, backend="reference").square().sum(), inputs)
    torch.testing.assert_close(got, want)
