"""Norms over the channels of a token."""

from typing import Literal

from torch import nn

NormKind = Literal["layer", "rms"]


def make_norm(kind: NormKind, dim: int) -> nn.Module:
    """Return a norm over the last axis of (..., dim): "layer" (Ba et al. 2016) or "rms" (Zhang and Sennrich 2019).

    PyTorch's own: they take the statistics of a 16-bit input in float32 (tested here, since all else relies on it).
    """
    if kind == "layer":
        return nn.LayerNorm(dim)
    if kind == "rms":
        return nn.RMSNorm(dim, eps=1e-6)
    raise ValueError(f"norm is {kind!r}, expected 'layer' or 'rms'")
