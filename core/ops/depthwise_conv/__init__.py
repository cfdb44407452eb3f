"""Depthwise convolution of channels-last images with bias and activation, fused."""

from torch import Tensor

from .._activation import Activation, check_activation
from .._native import Backend, check_floating, check_parameters, choose_backend, describe, resolve_backend
from . import eager, native, reference

__all__ = ["Activation", "Backend", "choose_backend", "depthwise_conv"]


def depthwise_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    causal: bool = False,
    activation: Activation = "none",
    slope: float = 0.01,
    backend: Backend = "auto",
) -> Tensor:
    """Convolve every channel with its own kernel, add the bias, apply the activation; the size stays, the border is zero.

    y[i, c] = act(bias[c] + sum over taps t of weight[c, 0, t] x[i + t - before, c]), where before is (kernel - 1) / 2 in every
    axis, or kernel - 1 if causal: then an output sees its own and earlier inputs only (Mamba, Gu and Dao 2023, section 3.4).

    Args:
        x: (batch, *size, channels), one to three axes in size; any strides, others than contiguous are copied.
        weight: (channels, 1, *kernel) as in torch's convolutions with groups = channels, any floating dtype. Without ``causal``
            the kernel's sizes are odd.
        bias: (channels,) or None, in any floating dtype.
        causal: for one axis.
        activation: none, relu, leaky_relu, gelu (exact) or silu.
        slope: of the negative side of leaky_relu.
        backend: ``auto`` takes the compiled kernel where it exists for these tensors. The result differs by rounding only.

    Returns:
        A tensor like x. Of the backends only ``native`` cannot be differentiated twice.

    Raises:
        ValueError: if the tensors do not match or are not floating, a kernel without ``causal`` is even, ``causal`` meets
            several axes, or ``native`` cannot serve the tensors.
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
    if causal and axes != 1:
        raise ValueError(f"{op}: causal is for one axis, x has {axes}: {describe(x)}")
    if 0 in kernel or (not causal and any(k % 2 == 0 for k in kernel)):
        raise ValueError(f"{op}: kernel sizes must be {'positive' if causal else 'odd'}, got {list(kernel)}")
    before = tuple(k - 1 if causal else k // 2 for k in kernel)
    functions = {"reference": reference.depthwise_conv, "eager": eager.depthwise_conv, "native": native.depthwise_conv}
    return functions[resolve_backend(op, backend, x)](x, weight, bias, before, activation, slope)
