"""Token mixers by name, for backbones.

Every factory takes the same arguments, whether it has a use for them or not, and may have more options, all with defaults: they
are fixed by ``functools.partial``.
"""

from typing import Protocol

from torch import nn

from ..ops.local_attention import grid as grid_pattern
from ..registry import Registry
from .attention import LocalAttention, NeighborhoodAttention, WindowAttention
from .channel_attention import ChannelAttention
from .essa import ESSA
from .global_attention import GlobalAttention
from .ss2d import Gate, SelectiveScan
from .ssd import VSSD
from .stripe import StripeAttention


class MixerFactory(Protocol):
    """Makes the mixer of one block, (batch, *size, dim) to the same shape."""

    def __call__(self, dim: int, *, heads: int, axes: int, stage: int, index: int) -> nn.Module:
        """Make a mixer for block ``index`` of stage ``stage``, both counted from 0, on ``axes`` spatial axes."""
        ...


def window(dim: int, *, heads: int, axes: int = 2, stage: int = 0, index: int = 0, size: int = 7) -> nn.Module:
    """Attention in windows of ``size`` tokens on a side."""
    return WindowAttention(dim, heads=heads, window=(size,) * axes)


def shifted_window(dim: int, *, heads: int, axes: int = 2, stage: int = 0, index: int = 0, size: int = 7) -> nn.Module:
    """As ``window``, with the grid of windows shifted by half a window on the axes that hold more than one."""
    return WindowAttention(dim, heads=heads, window=(size,) * axes, shift=(size // 2,) * axes, shift_single=False)


def grid(dim: int, *, heads: int, axes: int = 2, stage: int = 0, index: int = 0, size: int = 7) -> nn.Module:
    """Attention between ``size`` tokens of each axis, spread evenly over it (Tu et al. 2022, MaxViT)."""
    return LocalAttention(dim, heads=heads, pattern=grid_pattern((size,) * axes))


def neighborhood(
    dim: int, *, heads: int, axes: int = 2, stage: int = 0, index: int = 0, kernel: int = 7, dilation: int = 1
) -> nn.Module:
    """Attention to the ``kernel`` nearest tokens on each axis, which must hold kernel * dilation tokens in every stage."""
    return NeighborhoodAttention(dim, heads=heads, kernel=(kernel,) * axes, dilation=(dilation,) * axes)


def stripe(dim: int, *, heads: int, axes: int = 2, stage: int = 0, index: int = 0, split: int = 7) -> nn.Module:
    """Attention in stripes of ``split`` tokens, some heads along each axis."""
    return StripeAttention(dim, heads=heads, axes=axes, split=split)


def channel(dim: int, *, heads: int, axes: int = 2, stage: int = 0, index: int = 0) -> nn.Module:
    """Attention between channels."""
    return ChannelAttention(dim, heads=heads)


def global_attention(dim: int, *, heads: int, axes: int = 2, stage: int = 0, index: int = 0, qkv_bias: bool = True) -> nn.Module:
    """Attention between all tokens."""
    return GlobalAttention(dim, heads=heads, qkv_bias=qkv_bias)


def vssd(
    dim: int,
    *,
    heads: int,
    axes: int = 2,
    stage: int = 0,
    index: int = 0,
    states: int = 64,
    expand: float = 2,
    groups: int | None = 1,
    positive: bool = True,
) -> nn.Module:
    """Non-causal state space duality, as many heads as asked for."""
    inner = int(expand * dim)
    if inner % heads:
        raise ValueError(f"vssd: heads {heads} do not divide the {inner} channels inside (expand * dim)")
    return VSSD(dim, axes=axes, states=states, expand=expand, head_dim=inner // heads, groups=groups, positive=positive)


def essa(dim: int, *, heads: int, axes: int = 2, stage: int = 0, index: int = 0) -> nn.Module:
    """Linear attention by spectral correlation; it has one head."""
    return ESSA(dim)


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


MIXERS: Registry[MixerFactory] = Registry(
    "mixer",
    {
        "window": window,
        "shifted_window": shifted_window,
        "grid": grid,
        "neighborhood": neighborhood,
        "stripe": stripe,
        "channel": channel,
        "global": global_attention,
        "vssd": vssd,
        "essa": essa,
        "scan": scan,
    },
)
