"""The affine map of a linear layer by the compiled CPU kernel, which ends in the activation.

Shapes: R rows (tokens of all samples), I channels in, O channels out.
"""

from typing import Any

import torch
from torch import Tensor

from ...native import multiplies_bfloat16, native_status
from .._activation import ACTIVATIONS, Activation, activate
from . import eager, onednn

LEAST = 16  # channels out: a vector of the widest instruction set


def serves(given: list[Tensor], dtype: torch.dtype) -> tuple[bool, str]:
    """Whether the kernel computes with these tensors (x, weight, and bias if any) in this dtype, and what stands against it."""
    channels_out, channels_in = given[1].shape
    if any(t.device.type != "cpu" for t in given) or dtype not in (torch.float32, torch.bfloat16):
        return False, "is for float32 and bfloat16 on the CPU"
    if dtype == torch.bfloat16:
        if not multiplies_bfloat16():
            return False, "has products of bfloat16 where the CPU has AVX512-BF16"
        if channels_in % 2 or (torch.is_grad_enabled() and any(t.requires_grad for t in given)):
            return False, "takes bfloat16 without a gradient, and an even number of channels"
    if channels_out < LEAST:
        return False, f"is for {LEAST} channels out or more"
    return native_status()


def _fake(x_RI: Tensor, weight_OI: Tensor, _bias_O: Tensor | None, _activation: int, _slope: float) -> Tensor:
    return x_RI.new_empty(x_RI.shape[0], weight_OI.shape[0])


if native_status()[0]:
    # Shapes for tracing; in C++ they would need the whole of torch, not its stable ABI.
    torch.library.register_fake("geovit::linear", _fake)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(x_RI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        out: Tensor = torch.ops.geovit.linear(x_RI, weight_OI, bias_O, 0, 0.0)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        x_RI, weight_OI, _ = inputs
        ctx.save_for_backward(x_RI, weight_OI)

    @staticmethod
    def backward(ctx: Any, grad_RO: Tensor) -> tuple[Tensor | None, ...]:
        # By functions that have derivatives themselves, so that this can be differentiated any number of times.
        x_RI, weight_OI = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        products = onednn if onednn.AVAILABLE else eager
        return (
            products.linear(grad_RO, weight_OI.t(), None, "none", 0.0) if needs_x else None,
            products.weight_gradient(grad_RO, x_RI) if needs_weight else None,
            grad_RO.sum(0) if needs_bias else None,
        )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation, slope: float) -> Tensor:
    """Compute activation(x W^T + b) on CPU tensors that ``serves`` accepts."""
    x_RI = x.reshape(x.shape[:-1].numel(), x.shape[-1])
    out: Tensor
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        out = activate(_Linear.apply(x_RI, weight, bias), activation, slope)
    else:  # no gradient asks for what lies before the activation
        out = torch.ops.geovit.linear(x_RI, weight, bias, ACTIVATIONS.index(activation), slope)
    return out.reshape(*x.shape[:-1], out.shape[-1])
