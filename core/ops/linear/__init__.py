"""The affine map of a linear layer, x W^T + b, by the faster one of the products that PyTorch brings along."""

from typing import Literal, get_args

import torch
from torch import Tensor

from ...device import cpu_vendor
from ...native import native_status
from .._activation import Activation, check_activation
from .._backends import exporting
from . import eager, native, onednn, reference

__all__ = ["Activation", "Backend", "choose_backend", "linear"]

Backend = Literal["auto", "reference", "eager", "onednn", "native"]
Chosen = Literal["eager", "onednn", "native"]
_SMALL = 1 << 22  # multiplications; below, the call itself takes longer than the product
_FEW = 256  # rows; below, the native kernel lays out the weight for too little


def _choose(vendor: str) -> tuple[Chosen, str]:
    """Choose for large products of float32 on a CPU of this maker."""
    if not (onednn.AVAILABLE or native_status()[0]):
        return "eager", "this PyTorch has no oneDNN"
    has_mkl: bool = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    if not has_mkl or vendor in ("GenuineIntel", ""):
        return "eager", "PyTorch's own product has no known weakness on this CPU"
    return "native" if native_status()[0] else "onednn", f"MKL, PyTorch's own product, takes a slow path on a CPU of {vendor}"


_ON_CPU = _choose(cpu_vendor())


def choose_backend(device: torch.device, dtype: torch.dtype) -> tuple[Chosen, str]:
    """Return what ``backend="auto"`` means for tensors of this device and dtype, if they are not very small, and the reason."""
    if device.type != "cpu" or dtype not in onednn.DTYPES:
        return "eager", f"PyTorch's own choice for {dtype} on {device.type}"
    return _ON_CPU


def _autocast(device: torch.device) -> bool:
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def _told(given: list[Tensor]) -> str:
    return ", ".join(f"{t.dtype} on {t.device}" for t in given)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Activation = "none",
    slope: float = 0.01,
    backend: Backend = "auto",
) -> Tensor:
    """Compute activation(x W^T + b).

    Args:
        x: (..., in), floating, any strides.
        weight: (out, in), of the same dtype and device, as is the bias.
        bias: (out,), or None.
        activation: what follows: "none", "relu", "leaky_relu", "gelu" (the exact one) or "silu".
        slope: of leaky_relu's negative side.
        backend: ``auto`` takes the compiled kernel, or oneDNN for few rows, for float32 on CPUs on which MKL is slow; and the
            compiled kernel for bfloat16, that of autocast, too, on CPUs with AVX512-BF16, if there are many rows and no gradient
            is asked for. The result differs by rounding only. Else ``auto`` is ``eager`` under autocast.

    Returns:
        (..., out) in the dtype of ``x``, or that of autocast.

    Raises:
        ValueError: if shapes, dtypes or devices do not match, or a backend is asked for that cannot serve the tensors.
    """
    out = weight.shape[0] if weight.ndim else None
    if x.ndim < 1 or weight.ndim != 2 or x.shape[-1] != weight.shape[1] or (bias is not None and tuple(bias.shape) != (out,)):
        told = f"x {list(x.shape)}, weight {list(weight.shape)}" + ("" if bias is None else f", bias {list(bias.shape)}")
        raise ValueError(f"linear: got {told}, expected (..., in), (out, in) and (out,)")
    check_activation("linear", activation)
    given = [t for t in (x, weight, bias) if t is not None]
    if any(t.device != x.device for t in given) or (any(t.dtype != x.dtype for t in given) and not _autocast(x.device)):
        raise ValueError(f"linear: x, weight and bias are {_told(given)}, expected one dtype and device")
    if backend not in get_args(Backend):
        raise ValueError(f"linear: backend is {backend!r}, allowed are {', '.join(get_args(Backend))}")
    plain = all(t.device.type == "cpu" and t.dtype in onednn.DTYPES for t in given)
    if backend == "onednn" and not (plain and onednn.AVAILABLE):
        told = _told(given) if onednn.AVAILABLE else "a PyTorch without it"
        raise ValueError(f"linear: backend 'onednn' is for float32 on the CPU, got {told}")
    autocast = _autocast(x.device)
    dtype = torch.get_autocast_dtype(x.device.type) if autocast else x.dtype
    serves, reason = native.serves(given, dtype)
    if backend == "native" and not serves:
        raise ValueError(f"linear: backend 'native' {reason}, got {_told(given)}, {x.shape[-1]} channels in and {out} out")
    if backend == "auto":
        backend = "eager"
        large = not exporting() and x.numel() * weight.shape[0] >= _SMALL
        many = serves and x.numel() >= _FEW * x.shape[-1]
        if large and many and dtype == torch.bfloat16:
            backend = "native"
        elif large and plain and not autocast:
            backend = choose_backend(x.device, x.dtype)[0]
            if backend == "native" and not many:
                backend = "onednn" if onednn.AVAILABLE else "eager"
    if backend == "native" and autocast:
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    functions = {
        "reference": reference.linear,
        "eager": eager.linear,
        "onednn": onednn.linear,
        "native": native.linear,
    }
    return functions[backend](x, weight, bias, activation, slope)
