"""What this machine can compute on. The only file that asks torch about accelerators and instruction sets."""

import contextlib
import functools
import importlib.util
import os
from pathlib import Path

import torch

_TRITON = importlib.util.find_spec("triton") is not None
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # read by Triton too, when it is imported
_TRITON_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def available_devices() -> list[str]:
    """Name every device that a tensor can be put on here, the preferred one first."""
    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return [*cuda, *mps, "cpu"]


def resolve_device(name: str = "auto") -> torch.device:
    """Turn a user's word into a device: ``auto`` (the preferred one), ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    Raises:
        ValueError: if the name is none of these, or that device is not here.
    """
    available = available_devices()
    wanted = {"auto": available[0], "cuda": "cuda:0"}.get(name, name)
    if wanted not in available:
        raise ValueError(f"device is {name!r}, available here are auto, {', '.join(available)}")
    return torch.device(wanted)


def cpu_features() -> frozenset[str]:
    """Name the instruction sets of this CPU in torch's spelling, such as ``avx2``, ``amx_bf16`` or ``neon``."""
    if hasattr(torch.cpu, "get_capabilities"):
        return frozenset(name for name, value in torch.cpu.get_capabilities().items() if value is True)
    # Torch 2.10 has no public list. It names the level that its own kernels use, and nothing that tells of bfloat16.
    levels = {"AVX2": {"avx2"}, "AVX512": {"avx2", "avx512_f"}}
    return frozenset(levels.get(torch.backends.cpu.get_cpu_capability(), ()))


def has_fast_bfloat16(device: torch.device) -> bool:
    """Tell whether bfloat16 products run on hardware there, rather than by conversion to and from float32."""
    if device.type == "cpu":
        return bool(cpu_features() & {"avx512_bf16", "amx_bf16", "bf16"})
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return False


def triton_status(device: torch.device, dtype: torch.dtype) -> tuple[bool, str]:
    """Whether Triton kernels serve tensors of this device and dtype, and one line that says why or why not.

    With ``TRITON_INTERPRET=1`` in the environment from the start, Triton's interpreter runs them on the CPU: slow, for tests.
    """
    interpreted = device.type == "cpu" and _INTERPRETED
    if device.type != "cuda" and not interpreted:
        return False, f"the Triton kernel is for GPUs, not {device.type}"
    if not _TRITON:
        return False, "the package triton is not installed"
    if dtype not in _TRITON_DTYPES:
        return False, f"the Triton kernel has no {dtype}"
    return True, "the Triton kernel, interpreted" if interpreted else "the Triton kernel"


def launching_on(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Make this GPU the current one: Triton launches on the current GPU, wherever the tensors are."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Turn autocast off on this kind of device, so that the dtypes of the tensors decide; meta tensors know no autocast."""
    # Programs are exported without autocast. The tracer makes a graph of each such region and joins them in quadratic time.
    if torch.compiler.is_exporting():
        return contextlib.nullcontext()
    # The compiler of torch 2.10 cannot follow torch.amp.is_autocast_available; only meta tensors lack it among ours.
    return contextlib.nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


@functools.cache
def cpu_vendor() -> str:
    """Name the maker of this CPU as it does itself, such as GenuineIntel or AuthenticAMD; empty where that cannot be read."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return ""
    lines = (line.partition(":") for line in info.read_text(encoding="utf-8").splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == "vendor_id"), "")
