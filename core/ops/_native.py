"""What ops with a compiled CPU kernel for float32 and bfloat16 have in common: how ``backend="auto"`` is resolved."""

from typing import Literal, get_args

import torch

from ..native import native_status

Backend = Literal["auto", "reference", "eager", "native"]
DTYPES = (torch.float32, torch.bfloat16)


def choose_backend(device: torch.device, dtype: torch.dtype) -> tuple[Literal["eager", "native"], str]:
    """Return what ``backend="auto"`` means for tensors of this device and dtype, and the reason."""
    loaded, reason = native_status()
    if device.type != "cpu":
        return "eager", f"the compiled kernel is for the CPU, not {device.type}"
    if dtype not in DTYPES:
        return "eager", f"the compiled kernel has no {dtype}"
    return ("native", "the compiled kernel") if loaded else ("eager", f"the compiled kernels are not in use, {reason}")


def resolve_backend(op: str, backend: Backend, x: torch.Tensor) -> Literal["reference", "eager", "native"]:
    """Turn a caller's word into the backend that runs for tensors like x.

    Raises:
        ValueError: if there is no such backend, or ``native`` is asked for and cannot serve x.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"{op}: backend is {backend!r}, allowed are {', '.join(get_args(Backend))}")
    if backend in ("reference", "eager"):
        return backend
    chosen, reason = choose_backend(x.device, x.dtype)
    if backend == "native" and chosen != "native":
        raise ValueError(f"{op}: backend 'native' cannot be used: {reason}")
    return chosen


def check_floating(op: str, x: torch.Tensor, least_axes: int) -> None:
    """Raise ValueError unless x is a floating tensor of some axes at least."""
    if not x.is_floating_point() or x.ndim < least_axes:
        raise ValueError(f"{op}: x must be a floating tensor of {least_axes} or more axes, got {describe(x)}")


def check_like(op: str, x: torch.Tensor, **others: torch.Tensor | None) -> None:
    """Raise ValueError unless the others have the shape, dtype and device of x."""
    for name, other in others.items():
        if other is not None and (other.shape, other.dtype, other.device) != (x.shape, x.dtype, x.device):
            raise ValueError(f"{op}: {name} must be like x, {describe(x)}, got {describe(other)}")


def check_parameters(op: str, x: torch.Tensor, shape: tuple[int | str, ...], **parameters: torch.Tensor | None) -> None:
    """Raise ValueError unless the parameters are floating tensors of this shape on the device of x."""
    for name, parameter in parameters.items():
        if parameter is None:
            continue
        if tuple(parameter.shape) != shape or not parameter.is_floating_point() or parameter.device != x.device:
            raise ValueError(
                f"{op}: {name} must be a floating tensor of shape {list(shape)} on {x.device}, got {describe(parameter)}"
            )


def describe(tensor: torch.Tensor) -> str:
    """Say shape, dtype and device of a tensor."""
    return f"{list(tensor.shape)} {tensor.dtype} on {tensor.device}"
