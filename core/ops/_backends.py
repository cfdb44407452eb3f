"""What ops with kernels have in common: how a backend is chosen, and how tensors are checked."""

from collections.abc import Mapping
from typing import Literal, get_args

import torch

from ..native import native_status

Backend = Literal["auto", "reference", "eager", "native"]
Chosen = Literal["eager", "native", "triton"]
Status = tuple[bool, str]  # whether a kernel serves, and one line that says why or why not
DTYPES = (torch.float32, torch.bfloat16)
EXPORTING = "a program that is exported has PyTorch's own operations alone"


def exporting() -> bool:
    """Whether ``torch.export`` looks on: what it writes down must be PyTorch's own operations, and leave sizes variable."""
    return torch.compiler.is_exporting()


def native_serves(device: torch.device, dtype: torch.dtype, dtypes: tuple[torch.dtype, ...] = DTYPES) -> Status:
    """Whether a compiled kernel for these dtypes serves tensors of this device and dtype."""
    loaded, reason = native_status()
    if device.type != "cpu":
        return False, f"the compiled kernel is for the CPU, not {device.type}"
    if dtype not in dtypes:
        return False, f"the compiled kernel has no {dtype}"
    return loaded, "the compiled kernel" if loaded else f"the compiled kernels are not in use, {reason}"


def choose(device: torch.device, kernels: Mapping[Chosen, Status]) -> tuple[Chosen, str]:
    """Return what ``backend="auto"`` means on this device, given what the op's kernels say, and the reason."""
    if exporting():
        return "eager", EXPORTING
    kernel: Chosen = "triton" if device.type != "cpu" and "triton" in kernels else "native"
    serves, reason = kernels[kernel]
    return (kernel if serves else "eager"), reason


def resolve(op: str, backend: str, allowed: tuple[str, ...], device: torch.device, kernels: Mapping[Chosen, Status]) -> str:
    """Turn a caller's word into the backend that runs.

    Raises:
        ValueError: if there is no such backend, or a kernel is asked for that does not serve.
    """
    if backend not in allowed:
        raise ValueError(f"{op}: backend is {backend!r}, allowed are {', '.join(allowed)}")
    if backend == "auto":
        return choose(device, kernels)[0]
    serves, reason = kernels.get(backend, (True, ""))  # type: ignore[call-overload]
    if not serves:
        raise ValueError(f"{op}: backend {backend!r} cannot be used: {reason}")
    return backend


def choose_backend(device: torch.device, dtype: torch.dtype) -> tuple[Chosen, str]:
    """Return what ``backend="auto"`` means for tensors of this device and dtype, and the reason; of ops with one kernel."""
    return choose(device, {"native": native_serves(device, dtype)})


def resolve_backend(op: str, backend: Backend, x: torch.Tensor) -> str:
    """Turn a caller's word into the backend that runs for tensors like x; of ops with one kernel. See ``resolve``."""
    return resolve(op, backend, get_args(Backend), x.device, {"native": native_serves(x.device, x.dtype)})


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
