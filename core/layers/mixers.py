"""Token mixers by name, for backbones."""

from typing import Protocol

from torch import nn

from ..registry import Registry
from .attention import WindowAttention
from .ss2d import Gate, SelectiveScan


class MixerFactory(Protocol):
    """Makes the mixer of one block, (batch, *size, dim) to the same shape.

    A factory may have more options, all with defaults: they are fixed by ``functools.partial``.
    """

    def __call__(self, dim: int, *, heads: int, axes: int, stage: int, index: int) -> nn.Module:
        """Make a mixer for block ``index`` of stage ``stage``, both counted from 0, on ``axes`` spatial axes."""
        ...


# ruff: noqa: ARG001 - not every mixer has a use for where it stands


def window(dim: int, *, heads: int, axes: int = 2, stage: int = 0, index: int = 0, size: int = 7) -> nn.Module:
    """Attention in windows of ``size`` tokens on a side."""
    return WindowAttention(dim, heads=heads, window=(size,) * axes)


def shifted_window(dim: int, *, heads: int, axes: int = 2, stage: int = 0, index: int = 0, size: int = 7) -> nn.Module:
    """As ``window``, with the grid of windows shifted by half a window."""
    return WindowAttention(dim, heads=heads, window=(size,) * axes, shift=(size // 2,) * axes)


def scan(
    dim: int,
    *,
    heads: int,
    axes: int = 2,
    stage: int = 0,
    index: int = 0,
    state: int = 1,
    expand: float = 1.0,
    gate: Gate = "none",
    conv_bias: bool = False,
) -> nn.Module:
    """Selective scan along four routes across an image or six through a volume; the defaults are those of VMamba-T."""
    return SelectiveScan(dim, axes=axes, state=state, expand=expand, gate=gate, conv_bias=conv_bias)


MIXERS: Registry[MixerFactory] = Registry("mixer", {"window": window, "shifted_window": shifted_window, "scan": scan})
