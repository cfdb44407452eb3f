"""Convolution of channels-last images, with bias and activation."""

import math

import torch
from torch import Tensor

from .._activation import Activation, check_activation
from .._backends import Backend, Chosen, check_floating, choose, describe, native_serves, resolve
from . import eager, native, reference, volume

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
    beside: Tensor | None = None,
    activation: Activation = "none",
    slope: float = 0.01,
    backend: Backend = "auto",
) -> Tensor:
    """Compute y[i, o] = act(bias[o] + sum over taps t and channels c of weight[o, c, t] x[i + t - kernel // 2, c]).

    The size stays, and the image is zero outside.

    Args:
        x: (batch, *size, in), one to three axes in size; floating, any strides.
        beside: more channels of the same positions, (batch, *size, more): as if it were x's last channels, but nothing is copied.
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
    given = [t for t in (x, beside, weight, bias) if t is not None]
    channels = x.shape[-1] + (0 if beside is None else beside.shape[-1])
    fits = axes <= 3 and weight.ndim == x.ndim and weight.shape[1] == channels and all(k % 2 for k in weight.shape[2:])
    fits = fits and (beside is None or beside.shape[:-1] == x.shape[:-1])
    if not fits or (bias is not None and tuple(bias.shape) != (weight.shape[0],)):
        told = f"x {list(x.shape)}" + ("" if beside is None else f", beside {list(beside.shape)}")
        told += f", weight {list(weight.shape)}" + ("" if bias is None else f", bias {list(bias.shape)}")
        raise ValueError(f"{op}: got {told}, expected (batch, 1 to 3 axes, in), (out, in, odd sizes) and (out,)")
    check_activation(op, activation)
    autocast = x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)
    if any(t.device != x.device for t in given) or (not autocast and any(t.dtype != x.dtype for t in given)):
        told = ", ".join(f"{t.dtype} on {t.device}" for t in given)
        raise ValueError(
            f"{op}: {'x, weight and bias' if beside is None else 'x, beside, weight and bias'} are {told}, expected one dtype and device"
        )
    if axes == 3 and autocast:
        dtype = torch.get_autocast_dtype(x.device.type)
        x, beside = x.to(dtype), None if beside is None else beside.to(dtype)
    serves = native_serves(x.device, x.dtype, native.DTYPES if axes == 2 else volume.DTYPES)
    if serves[0] and not (volume.fits(x, weight, beside) or (beside is None and native.fits(x, weight))):
        serves = (
            False,
            f"the compiled kernel takes 3 x 3 and {native.LEAST} or more channels, or 3 x 3 x 3, got weight {describe(weight)}",
        )
    if backend == "auto" and ((autocast and axes < 3) or math.prod(x.shape[1:-1]) < _SMALL):
        backend = "eager"
    chosen = resolve(op, backend, ("auto", "reference", "eager", "native"), x.device, {"native": serves})
    if chosen == "native" and axes == 3:
        return volume.conv(x, weight, bias, beside, activation, slope)
    functions = {"reference": reference.conv, "eager": eager.conv, "native": native.conv}
    return functions[chosen](x if beside is None else torch.cat((x, beside), -1), weight, bias, activation, slope)
