"""SwiGLU's gate by the compiled CPU kernel: one pass over memory forward, one backward."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...native import native_status


def _fake(gate: Tensor, _value: Tensor) -> Tensor:
    return torch.empty_like(gate, memory_format=torch.contiguous_format)


def _fake_backward(_grad: Tensor, gate: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    return _fake(gate, value), _fake(value, gate)


if native_status()[0]:
    # Shapes for tracing; in C++ they would need the whole of torch, not its stable ABI.
    torch.library.register_fake("geovit::swiglu", _fake)
    torch.library.register_fake("geovit::swiglu_backward", _fake_backward)


class _SwiGLU(torch.autograd.Function):
    # Outside the op: cheaper than torch.library.register_autograd, and Dynamo traces it.

    @staticmethod
    def forward(ctx: Any, gate: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(gate, value)
        out: Tensor = torch.ops.geovit.swiglu(gate, value)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        grads: tuple[Tensor, Tensor] = torch.ops.geovit.swiglu_backward(grad, *ctx.saved_tensors)
        return grads


def swiglu(gate: Tensor, value: Tensor) -> Tensor:
    """Compute silu(gate) * value on CPU tensors of one of ``DTYPES``, rounded once; the result is contiguous."""
    out: Tensor = _SwiGLU.apply(gate, value)
    return out
