"""The affine map of a linear layer by the products of oneDNN, which comes with PyTorch.

Shapes: R rows (tokens of all samples), I channels in, O channels out.
"""

from typing import Any

import torch
from torch import Tensor

from .._activation import Activation, activate

DTYPES = (torch.float32,)
_NAME = "_linear_pointwise"  # what torch.compile makes of a linear layer on the CPU
# Whether this PyTorch has oneDNN and that op, which takes plain tensors to it. A constant, so that torch.compile can follow.
AVAILABLE: bool = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, _NAME)  # type: ignore[no-untyped-call]


def _product(x_RI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, activation: Activation, slope: float) -> Tensor:
    if x_RI.numel() == 0 or weight_OI.numel() == 0:  # oneDNN has no such product
        return activate(torch.nn.functional.linear(x_RI, weight_OI, bias_O), activation, slope)
    out: Tensor = getattr(torch.ops.mkldnn, _NAME)(x_RI, weight_OI, bias_O, *onednn_activation(activation, slope))
    return out


def onednn_activation(activation: Activation, slope: float) -> tuple[str, list[float], str]:
    """Return what the ops of ``torch.ops.mkldnn`` call an activation: name, numbers, algorithm."""
    if activation == "leaky_relu":
        return "leaky_relu", [slope], ""
    # The algorithm "none" of the GELU is the exact one.
    return {"silu": "swish"}.get(activation, activation), [], "none" if activation == "gelu" else ""


def _fake(x_RI: Tensor, weight_OI: Tensor, _bias_O: Tensor | None, _activation: str, _slope: float) -> Tensor:
    return x_RI.new_empty(x_RI.shape[0], weight_OI.shape[0])


# An op of ours around it: torch.compile takes oneDNN's own for one with constant weights only, and fails on others.
_LIBRARY = torch.library.Library("geovit", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(  # type: ignore[no-untyped-call]
    "linear_onednn(Tensor x, Tensor weight, Tensor? bias, str activation, float slope) -> Tensor"
)
_LIBRARY.impl("linear_onednn", _product, "CPU")  # type: ignore[no-untyped-call]
torch.library.register_fake("geovit::linear_onednn", _fake, lib=_LIBRARY)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(x_RI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        out: Tensor = torch.ops.geovit.linear_onednn(x_RI, weight_OI, bias_O, "none", 0.0)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        x_RI, weight_OI, _ = inputs
        ctx.save_for_backward(x_RI, weight_OI)

    @staticmethod
    def backward(ctx: Any, grad_RO: Tensor) -> tuple[Tensor | None, ...]:
        # The same function again, so that it can be differentiated any number of times.
        x_RI, weight_OI = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            _Linear.apply(grad_RO, weight_OI.t(), None) if needs_x else None,
            weight_gradient(grad_RO, x_RI) if needs_weight else None,
            grad_RO.sum(0) if needs_bias else None,
        )


def weight_gradient(grad_RO: Tensor, x_RI: Tensor) -> Tensor:
    """Compute G^T X."""
    rows, out = grad_RO.shape
    if rows > out > x_RI.shape[1]:
        # The transposed product runs up to four times as fast on tall matrices, and transposing the small result back is cheap.
        transposed: Tensor = _Linear.apply(x_RI.t(), grad_RO.t(), None)
        return transposed.t().contiguous()
    product: Tensor = _Linear.apply(grad_RO.t(), x_RI.t(), None)
    return product


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation, slope: float) -> Tensor:
    """Compute activation(x W^T + b) on CPU tensors of one of ``DTYPES``."""
    x_RI = x.reshape(x.shape[:-1].numel(), x.shape[-1])
    out: Tensor
    if activation == "none" or (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias))):
        out = activate(_Linear.apply(x_RI, weight, bias), activation, slope)
    else:  # no gradient asks for what lies before the activation
        out = torch.ops.geovit.linear_onednn(x_RI, weight, bias, activation, slope)
    return out.reshape(*x.shape[:-1], out.shape[-1])
