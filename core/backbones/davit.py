"""DaViT: attention in windows and attention between channels in turn."""

from collections.abc import Sequence
from functools import partial
from typing import Literal, get_args

from torch import nn

from ..blocks.metaformer import MetaFormerBlock
from ..layers.attention import WindowAttention
from ..layers.channel_attention import ChannelAttention
from ..layers.downsample import StridedConv
from ..layers.mlp import MLP
from ..layers.position import ConvPosition
from .hierarchical import Pyramid, hierarchical

MixerKind = Literal["spatial", "channel"]


def davit_block(dim: int, mixer: nn.Module, *, axes: int = 2, mlp_ratio: float = 4.0, drop_path: float = 0.0) -> MetaFormerBlock:
    """Return a block with a convolutional position encoding before both branches (Ding et al. 2022, section 3.3).

    Without hidden channels (``mlp_ratio=0``) the second branch is left out.
    """
    return MetaFormerBlock(
        dim,
        mixer,
        channel_mixer=MLP(dim, int(mlp_ratio * dim)) if mlp_ratio else None,
        positions=(ConvPosition(dim, axes=axes), ConvPosition(dim, axes=axes)),
        drop_path=drop_path,
    )


def davit(
    channels: int = 3,
    *,
    dims: Sequence[int] = (96, 192, 384, 768),
    depths: Sequence[int] = (1, 1, 3, 1),
    heads: Sequence[int] = (3, 6, 12, 24),
    window: int = 7,
    axes: int = 2,
    patch: int = 4,
    overlap: bool = False,
    mlp_ratio: float = 4.0,
    qkv_bias: bool = True,
    mixers: Sequence[MixerKind] = ("spatial", "channel"),
    drop_path: float = 0.0,
) -> Pyramid:
    """Build a DaViT (Ding et al. 2022) without its classifier; the defaults are those of DaViT-T.

    The tokens are not normed: the official classifier norms their mean.

    Args:
        channels: of the image.
        dims: channels of each stage.
        depths: runs through ``mixers`` in each stage.
        heads: attention heads, and groups of channels, of each stage.
        window: tokens on a side of the windows; the image is filled up to whole windows with zero tokens.
        axes: spatial axes.
        patch: stride of the first convolution, whose kernel is 2 patch - 1.
        overlap: whether the convolutions between the stages have a kernel of 3 instead of 2.
        mlp_ratio: hidden channels of the MLP for each channel.
        qkv_bias: whether the projections to query, key and value have a bias.
        mixers: of the blocks, in turn: attention in windows ("spatial") and between channels ("channel").
        drop_path: as in ``hierarchical``.

    Raises:
        ValueError: for no mixer or an unknown one.
    """
    if not mixers or not set(mixers) <= set(get_args(MixerKind)):
        raise ValueError(f"davit: mixers are {tuple(mixers)}, expected one or more of {', '.join(get_args(MixerKind))}")

    def mixer(dim: int, *, heads: int, axes: int, stage: int, index: int) -> nn.Module:
        if mixers[index % len(mixers)] == "channel":
            return ChannelAttention(dim, heads=heads, qkv_bias=qkv_bias)
        return WindowAttention(dim, heads=heads, window=(window,) * axes, qkv_bias=qkv_bias, position_bias=None, border="zeros")

    kernel, padding = (3, 1) if overlap else (2, 0)
    return hierarchical(
        channels,
        dims=dims,
        depths=[len(mixers) * depth for depth in depths],
        heads=heads,
        mixer=mixer,
        axes=axes,
        stem=partial(StridedConv, kernel=2 * patch - 1, stride=patch, padding=patch - 1, image=True),
        block=partial(davit_block, mlp_ratio=mlp_ratio),
        downsample=partial(StridedConv, kernel=kernel, stride=2, padding=padding, norm_first=True),
        norm=None,
        drop_path=drop_path,
    )
