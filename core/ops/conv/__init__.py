"""Convolution of channels-last images, with bias and activation."""

import math

import torch
from torch import Tensor

from .._activation import Activation, check_activation
from .._backends import Backend, Chosen, check_floating, choose, describe, native_serves, resolve
from . import eager, native, reference

__all__ = ["Activation", "Backend", "choose_backend", "conv"]

_SMALL = 128  # outputs of an image; below, computing the filters at all points takes longer than it saves


def choose_backend(device: torch.device, dtype: torch.dtype) -> tuple[Chosen, str]:
    """Return what ``backend="auto"`` means for tensors of this device and dtype, if the kernel is 3 x 3, and the reason."""
    return choose(device, {"native": native_serves(device, dtype, native.DTYPES)})


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Activation = "none",
    slope: float = 0.01,
    backend: Backend = "auto",
) -> Tensor:
    """Compute y[i, o] = act(bias[o] + sum over taps t and channels c of weight[o, c, t] x[i + t - kernel // 2, c]).

    The size stays, and the image is zero outside.

    Args:
        x: (batch, *size, in), one to three axes in size; floating, any strides.
        weight: (out, in, *kernel) as in torch's convolutions, odd sizes; of the same dtype and device, as is the bias.
        bias: (out,), or None.
        activation: none, relu, leaky_relu, gelu (exact) or silu.
        slope: of the negative side of leaky_relu.
        backend: ``auto`` takes the compiled kernel for float32 on a CPU where the kernel is 3 x 3, there are 16 channels or more
            and the image is not tiny. The result differs by rounding only. Under autocast ``auto`` is ``eager``.

    Returns:
        (batch, *size, out), contiguous, in the dtype of ``x``, or that of autocast. Of the backends only ``native`` cannot be
        differentiated twice.

    Raises:
        ValueError: if shapes, dtypes or devices do not match, a kernel size is even, or ``native`` cannot serve the tensors.
    """
    op = "conv"
    check_floating(op, x, 3)
    axes = x.ndim - 2
    fits = axes <= 3 and weight.ndim == x.ndim and weight.shape[1] == x.shape[-1] and all(k % 2 for k in weight.shape[2:])
    if not fits or (bias is not None and tuple(bias.shape) != (weight.shape[0],)):
        told = f"x {list(x.shape)}, weight {list(weight.shape)}" + ("" if bias is None else f", bias {list(bias.shape)}")
        raise ValueError(f"{op}: got {told}, expected (batch, 1 to 3 axes, in), (out, in, odd sizes) and (out,)")
    check_activation(op, activation)
    autocast = x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)
    given = [t for t in (x, weight, bias) if t is not None]
    if any(t.device != x.device for t in given) or (not autocast and any(t.dtype != x.dtype for t in given)):
        told = ", ".join(f"{t.dtype} on {t.device}" for t in given)
        raise ValueError(f"{op}: x, weight and bias are {told}, expected one dtype and device")
    serves = native_serves(x.device, x.dtype, native.DTYPES)
    if serves[0] and not native.fits(x, weight):
        serves = False, f"the compiled kernel takes 3 x 3 and {native.LEAST} or more channels, got weight {describe(weight)}"
    if backend == "auto" and (autocast or math.prod(x.shape[1:-1]) < _SMALL):
        backend = "eager"
    functions = {"reference": reference.conv, "eager": eager.conv, "native": native.conv}
    chosen = resolve(op, backend, ("auto", *functions), x.device, {"native": serves})
    return functions[chosen](x, weight, bias, activation, slope)
