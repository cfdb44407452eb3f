"""The gate of SwiGLU feed-forward layers: silu(gate) * value."""

from typing import Literal, get_args

import torch
from torch import Tensor

from ...native import native_status
from . import eager, native, reference

__all__ = ["Backend", "choose_backend", "swiglu"]

Backend = Literal["auto", "reference", "eager", "native"]


def choose_backend(device: torch.device, dtype: torch.dtype) -> tuple[Literal["eager", "native"], str]:
    """Return what ``backend="auto"`` means for tensors of this device and dtype, and the reason."""
    loaded, reason = native_status()
    if device.type != "cpu":
        return "eager", f"the compiled kernel is for the CPU, not {device.type}"
    if dtype not in native.DTYPES:
        return "eager", f"the compiled kernel has no {dtype}"
    return ("native", "the compiled kernel") if loaded else ("eager", f"the compiled kernels are not in use, {reason}")


def swiglu(gate: Tensor, value: Tensor, *, backend: Backend = "auto") -> Tensor:
    """Compute gate * sigmoid(gate) * value, elementwise (Shazeer 2020, "GLU variants improve transformer", equation 6).

    Args:
        gate, value: floating tensors of one shape, dtype and device; any strides.
        backend: ``auto`` takes the compiled kernel where it exists for these tensors. The result differs by rounding only.

    Returns:
        A tensor like ``gate``. Of the backends only ``native`` cannot be differentiated twice.

    Raises:
        ValueError: if the tensors do not match, are not floating, or ``native`` is asked for and cannot serve them.
    """
    given = [(tuple(x.shape), x.dtype, x.device.type) for x in (gate, value)]
    if given[0] != given[1] or not gate.is_floating_point():
        told = " and ".join(f"{list(shape)} {dtype} on {device}" for shape, dtype, device in given)
        raise ValueError(f"swiglu: gate and value must be floating tensors of one shape, dtype and device, got {told}")
    if backend not in get_args(Backend):
        raise ValueError(f"swiglu: backend is {backend!r}, allowed are {', '.join(get_args(Backend))}")
    if backend in ("auto", "native"):
        chosen, reason = choose_backend(gate.device, gate.dtype)
        if backend == "native" and chosen != "native":
            raise ValueError(f"swiglu: backend 'native' cannot be used: {reason}")
        backend = chosen
    functions = {"reference": reference.swiglu, "eager": eager.swiglu, "native": native.swiglu}
    return functions[backend](gate, value)
