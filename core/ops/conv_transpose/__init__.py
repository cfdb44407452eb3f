"""Transposed convolution whose stride is its kernel: every position becomes a block of positions."""

import torch
from torch import Tensor

from .._backends import Backend, Chosen, check_floating, choose, exporting, native_serves, resolve_backend
from . import eager, native, reference

__all__ = ["Backend", "choose_backend", "conv_transpose"]


def choose_backend(device: torch.device, dtype: torch.dtype) -> tuple[Chosen, str]:
    """Return what ``backend="auto"`` means for tensors of this device and dtype, and the reason."""
    return choose(device, {"native": native_serves(device, dtype)})


def conv_transpose(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, backend: Backend = "auto") -> Tensor:
    """Compute y[kernel * i + t, o] = bias[o] + sum over channels c of weight[c, o, t] x[i, c].

    Args:
        x: (batch, *size, in), one to three axes in size; floating, any strides.
        weight: (in, out, *kernel) as in torch's transposed convolutions, of any sizes; of x's dtype and device, as is bias.
        bias: (out,), or None.
        backend: ``auto`` takes the compiled kernel for float32 and bfloat16 on a CPU, under autocast, too, where there are 65
            positions or more.

    Returns:
        (batch, *(size * kernel), out), contiguous, in the dtype of ``x``, or that of autocast. Of the backends only ``native``
        cannot be differentiated twice.

    Raises:
        ValueError: if shapes, dtypes or devices do not match, or ``native`` cannot serve the tensors.
    """
    op = "conv_transpose"
    check_floating(op, x, 3)
    fits = x.ndim <= 5 and weight.ndim == x.ndim and weight.shape[0] == x.shape[-1]
    if not fits or (bias is not None and tuple(bias.shape) != (weight.shape[1],)):
        told = f"x {list(x.shape)}, weight {list(weight.shape)}" + ("" if bias is None else f", bias {list(bias.shape)}")
        raise ValueError(f"{op}: got {told}, expected (batch, 1 to 3 axes, in), (in, out, *kernel) and (out,)")
    autocast = x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)
    given = [t for t in (x, weight, bias) if t is not None]
    if any(t.device != x.device for t in given) or (not autocast and any(t.dtype != x.dtype for t in given)):
        told = ", ".join(f"{t.dtype} on {t.device}" for t in given)
        raise ValueError(f"{op}: x, weight and bias are {told}, expected one dtype and device")
    if autocast:
        x = x.to(torch.get_autocast_dtype(x.device.type))
    if backend == "auto" and not exporting() and x.shape[:-1].numel() < eager.FEW:
        backend = "eager"
    functions = {"reference": reference.conv_transpose, "eager": eager.conv_transpose, "native": native.conv_transpose}
    return functions[resolve_backend(op, backend, x)](x, weight, bias)
