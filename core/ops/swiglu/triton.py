"""SwiGLU's gate on a GPU: one pass over memory forward, one backward. Imported only where Triton is used."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...device import launching_on

_BLOCK = 1024  # elements of a program: 8 for each thread of 4 warps, two loads of 16 bytes in half precision


@triton.jit(do_not_specialize=["size"])
def _forward_kernel(gate, value, out, size, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    g = tl.load(gate + at, mask=inside, other=0.0).to(tl.float32)
    v = tl.load(value + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, (g * tl.sigmoid(g) * v).to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["size"])
def _backward_kernel(grad, gate, value, grad_gate, grad_value, size, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    d = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(gate + at, mask=inside, other=0.0).to(tl.float32)
    v = tl.load(value + at, mask=inside, other=0.0).to(tl.float32)
    s = tl.sigmoid(g)
    tl.store(grad_gate + at, (d * v * s * (1.0 + g * (1.0 - s))).to(grad_gate.dtype.element_ty), mask=inside)
    tl.store(grad_value + at, (d * g * s).to(grad_value.dtype.element_ty), mask=inside)


def _run(gate: Tensor, value: Tensor) -> Tensor:
    gate, value = gate.contiguous(), value.contiguous()
    out = torch.empty_like(gate, memory_format=torch.contiguous_format)
    if out.numel():
        with launching_on(gate.device):
            _forward_kernel[(triton.cdiv(out.numel(), _BLOCK),)](gate, value, out, out.numel(), BLOCK=_BLOCK)
    return out


def _run_backward(grad: Tensor, gate: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    grad, gate, value = grad.contiguous(), gate.contiguous(), value.contiguous()
    grads = torch.empty_like(gate), torch.empty_like(value)
    if gate.numel():
        with launching_on(gate.device):
            _backward_kernel[(triton.cdiv(gate.numel(), _BLOCK),)](grad, gate, value, *grads, gate.numel(), BLOCK=_BLOCK)
    return grads


def _fake(gate: Tensor, value: Tensor) -> Tensor:
    return torch.empty_like(gate, memory_format=torch.contiguous_format)


def _fake_backward(grad: Tensor, gate: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    return _fake(gate, value), _fake(value, gate)


torch.library.define("geovit::swiglu_triton", "(Tensor gate, Tensor value) -> Tensor")
torch.library.define("geovit::swiglu_triton_backward", "(Tensor grad, Tensor gate, Tensor value) -> (Tensor, Tensor)")
torch.library.impl("geovit::swiglu_triton", "default", _run)
torch.library.impl("geovit::swiglu_triton_backward", "default", _run_backward)
torch.library.register_fake("geovit::swiglu_triton", _fake)
torch.library.register_fake("geovit::swiglu_triton_backward", _fake_backward)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(gate, value)
        out: Tensor = torch.ops.geovit.swiglu_triton(gate, value)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        grads: tuple[Tensor, Tensor] = torch.ops.geovit.swiglu_triton_backward(grad, *ctx.saved_tensors)
        return grads


def swiglu(gate: Tensor, value: Tensor) -> Tensor:
    """Compute silu(gate) * value in float32, rounded once; the result is contiguous, in the dtype of gate.

    Here, unlike in the public function, value may have another dtype.
    """
    out: Tensor = _SwiGLU.apply(gate, value)
    return out
