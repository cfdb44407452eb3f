"""The gate of SwiGLU feed-forward layers: silu(gate) * value."""

from typing import Literal, get_args

import torch
from torch import Tensor

from ...device import triton_status
from .._backends import Chosen, Status, choose, native_serves, resolve
from . import eager, native, reference

__all__ = ["Backend", "choose_backend", "swiglu"]

Backend = Literal["auto", "reference", "eager", "native", "triton"]


def choose_backend(device: torch.device, dtype: torch.dtype) -> tuple[Chosen, str]:
    """Return what ``backend="auto"`` means for tensors of this device and dtype, and the reason."""
    return choose(device, _kernels(device, dtype))


def _kernels(device: torch.device, dtype: torch.dtype) -> dict[Chosen, Status]:
    return {"native": native_serves(device, dtype), "triton": triton_status(device, dtype)}


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
    given = [(tuple(x.shape), x.dtype, x.device) for x in (gate, value)]
    if given[0] != given[1] or not gate.is_floating_point():
        told = " and ".join(f"{list(shape)} {dtype} on {device}" for shape, dtype, device in given)
        raise ValueError(f"swiglu: gate and value must be floating tensors of one shape, dtype and device, got {told}")
    chosen = resolve("swiglu", backend, get_args(Backend), gate.device, _kernels(gate.device, gate.dtype))
    return _FUNCTIONS[chosen](gate, value)


_FUNCTIONS = {"reference": reference.swiglu, "eager": eager.swiglu, "native": native.swiglu, "triton": _triton}
