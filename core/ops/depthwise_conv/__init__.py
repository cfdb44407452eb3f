"""Depthwise convolution of channels-last images with bias and activation, fused."""

from typing import Literal, get_args

from torch import Tensor

from .._activation import Activation, check_activation
from .._backends import Backend, check_floating, check_parameters, choose_backend, describe, resolve_backend
from . import eager, native, reference

__all__ = ["Activation", "Backend", "Sees", "choose_backend", "depthwise_conv"]

Sees = Literal["around", "before", "after"]


def depthwise_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    sees: Sees = "around",
    activation: Activation = "none",
    slope: float = 0.01,
    backend: Backend = "auto",
) -> Tensor:
    """Convolve every channel with its own kernel, add the bias, apply the activation; the size stays, the border is zero.

    y[i, c] = act(bias[c] + sum over taps t of weight[c, 0, t] x[i + t - before, c]), with before = (kernel - 1) / 2.
    A causal filter sees "before": its own and earlier inputs only, before = kernel - 1 (Mamba, Gu and Dao 2023, section 3.4). One
    that sees "after" is the causal filter of the image turned round on every axis (Vim, Zhu et al. 2024, algorithm 1).

    Args:
        x: (batch, *size, channels), one to three axes in size; any strides, others than contiguous are copied.
        weight: (channels, 1, *kernel) as in torch's convolutions with groups = channels, any floating dtype. Around a position
            the kernel's sizes are odd.
        bias: (channels,) or None, in any floating dtype.
        sees: where the kernel lies: "around" the position, "before" it or "after" it, the position included.
        activation: none, relu, leaky_relu, gelu (exact) or silu.
        slope: of the negative side of leaky_relu.
        backend: ``auto`` takes the compiled kernel where it exists for these tensors. The result differs by rounding only.

    Returns:
        A tensor like x, under autocast, too. Of the backends only ``native`` cannot be differentiated twice.

    Raises:
        ValueError: if the tensors do not match or are not floating, a kernel that lies around is even, or
            ``native`` cannot serve the tensors.
    """
    op = "depthwise_conv"
    check_floating(op, x, 3)
    axes = x.ndim - 2
    if axes > 3 or x.shape[-1] == 0:
        raise ValueError(f"{op}: x must be (batch, 1 to 3 axes, channels) with channels, got {describe(x)}")
    kernel = tuple(weight.shape[2:])
    check_parameters(op, x, (x.shape[-1], 1, *(kernel if len(kernel) == axes else ("kernel",) * axes)), weight=weight)
    check_parameters(op, x, (x.shape[-1],), bias=bias)
    check_activation(op, activation)
    if sees not in get_args(Sees):
        raise ValueError(f"{op}: sees is {sees!r}, allowed are {', '.join(get_args(Sees))}")
    if 0 in kernel or (sees == "around" and any(k % 2 == 0 for k in kernel)):
        raise ValueError(f"{op}: kernel sizes must be {'odd' if sees == 'around' else 'positive'}, got {list(kernel)}")
    before = tuple({"around": k // 2, "before": k - 1, "after": 0}[sees] for k in kernel)
    weight = weight.flip(list(range(2, weight.ndim))) if sees == "after" else weight
    functions = {"reference": reference.depthwise_conv, "eager": eager.depthwise_conv, "native": native.depthwise_conv}
    return functions[resolve_backend(op, backend, x)](x, weight, bias, before, activation, slope)
