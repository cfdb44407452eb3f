"""The gate of SwiGLU feed-forward layers: silu(gate) * value."""

from typing import Literal, get_args

import torch
from torch import Tensor

from ...device import triton_status
from ...native import native_status
from . import eager, native, reference

__all__ = ["Backend", "choose_backend", "swiglu"]

Backend = Literal["auto", "reference", "eager", "native", "triton"]


def choose_backend(device: torch.device, dtype: torch.dtype) -> tuple[Literal["eager", "native", "triton"], str]:
    """Return what ``backend="auto"`` means for tensors of this device and dtype, and the reason."""
    if device.type != "cpu":
        served, reason = triton_status(device, dtype)
        return ("triton" if served else "eager"), reason
    served, reason = _serves_native(device, dtype)
    return ("native" if served else "eager"), reason


def _serves_native(device: torch.device, dtype: torch.dtype) -> tuple[bool, str]:
    loaded, reason = native_status()
    if device.type != "cpu":
        return False, f"the compiled kernel is for the CPU, not {device.type}"
    if dtype not in native.DTYPES:
        return False, f"the compiled kernel has no {dtype}"
    return loaded, "the compiled kernel" if loaded else f"the compiled kernels are not in use, {reason}"


def _triton(gate: Tensor, value: Tensor) -> Tensor:
    from . import triton

    return triton.swiglu(gate, value)


def swiglu(gate: Tensor, value: Tensor, *, backend: Backend = "auto") -> Tensor:
    """Compute gate * sigmoid(gate) * value, elementwise (Shazeer 2020, "GLU variants improve transformer", equation 6).

    Args:
        gate, value: floating tensors of one shape, dtype and device; any strides.
        backend: ``auto`` takes a kernel where one exists for these tensors: ``native`` on a CPU,
            ``triton`` on a GPU. The result differs by rounding only.

    Returns:
        A tensor like ``gate``. Of the backends ``native`` and ``triton`` cannot be differentiated twice.

    Raises:
        ValueError: if the tensors do not match, are not floating, or a backend is asked for that cannot serve them.
    """
    given = [(tuple(x.shape), x.dtype, x.device.type) for x in (gate, value)]
    if given[0] != given[1] or not gate.is_floating_point():
        told = " and ".join(f"{list(shape)} {dtype} on {device}" for shape, dtype, device in given)
        raise ValueError(f"swiglu: gate and value must be floating tensors of one shape, dtype and device, got {told}")
    if backend not in get_args(Backend):
        raise ValueError(f"swiglu: backend is {backend!r}, allowed are {', '.join(get_args(Backend))}")
    if backend == "auto":
        backend, _ = choose_backend(gate.device, gate.dtype)
    elif backend in _SERVES:
        served, reason = _SERVES[backend](gate.device, gate.dtype)
        if not served:
            raise ValueError(f"swiglu: backend {backend!r} cannot be used: {reason}")
    return _FUNCTIONS[backend](gate, value)


_SERVES = {"native": _serves_native, "triton": triton_status}
_FUNCTIONS = {"reference": reference.swiglu, "eager": eager.swiglu, "native": native.swiglu, "triton": _triton}
