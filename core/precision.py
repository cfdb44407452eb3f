"""The precision of training and inference."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from .device import has_fast_bfloat16

Precision = Literal["auto", "fp32", "bf16", "fp16"]


def resolve_precision(name: Precision, device: torch.device) -> torch.dtype:
    """Turn a user's word into the dtype that products are computed in on this device.

    ``auto`` is bf16 on a GPU that has it, else fp32. On a CPU it is fp32 even where bf16 instructions exist: several torch
    releases fall back to slow bf16 convolutions there (pytorch #183815), so that bf16 has to be asked for.

    Raises:
        ValueError: if the name is unknown, or the device has no hardware for that precision.
    """
    fast_bfloat16 = has_fast_bfloat16(device)
    allowed = ["auto", "fp32", *(["bf16"] if fast_bfloat16 else []), *(["fp16"] if device.type != "cpu" else [])]
    if name not in allowed:
        raise ValueError(f"precision is {name!r}, this {device.type} allows {', '.join(allowed)}")
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" and fast_bfloat16 else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[None]:
    """Return the context in which a forward pass runs: torch's autocast, or nothing for float32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
