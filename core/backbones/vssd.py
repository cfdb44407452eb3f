"""VSSD: a pyramid of non-causal state space mixers, with softmax attention in its last stage."""

from collections.abc import Sequence
from functools import partial
from typing import Literal, get_args

from torch import nn

from ..blocks.metaformer import MetaFormerBlock
from ..layers.conv_scale import ConvDownsample, ConvStem, InvertedDownsample, PatchConvStem
from ..layers.mixers import global_attention, vssd
from ..layers.mlp import MLP
from ..layers.position import ConvPosition
from .hierarchical import Pyramid, hierarchical

StageKind = Literal["ssd", "attention"]


def vssd_block(dim: int, mixer: nn.Module, *, axes: int = 2, mlp_ratio: float = 4.0, drop_path: float = 0.0) -> MetaFormerBlock:
    """Return a block with a depthwise convolution for the position before each of its branches (Shi et al. 2024, figure 3)."""
    positions = (ConvPosition(dim, axes=axes), ConvPosition(dim, axes=axes))
    mlp = MLP(dim, int(dim * mlp_ratio))
    return MetaFormerBlock(dim, mixer, channel_mixer=mlp, positions=positions, drop_path=drop_path)


def vssd_backbone(
    channels: int = 3,
    *,
    dims: Sequence[int] = (64, 128, 256, 512),
    depths: Sequence[int] = (2, 4, 8, 4),
    heads: Sequence[int] = (2, 4, 8, 16),
    kinds: Sequence[StageKind] = ("ssd", "ssd", "ssd", "attention"),
    axes: int = 2,
    states: int = 64,
    expand: float = 2,
    groups: int | None = 1,
    positive: bool = True,
    mlp_ratio: float = 4.0,
    simple: tuple[bool, bool] = (False, False),
    drop_path: float = 0.0,
) -> Pyramid:
    """Build VSSD (Shi et al. 2024, section 3.3); the defaults are its tiny model, for (batch, channels, *size).

    ``core.weights.vssd.VSSD_NAMES`` renames the authors' checkpoints to it. The others that they published are micro (dims from
    48, depths 2, 2, 8, 4, 48 states), small (depths 3, 4, 21, 5) and base (dims from 96, the same depths, heads from 3).

    Args:
        channels: of the image.
        dims, depths, heads: channels, blocks and heads of each stage.
        kinds: mixer of each stage, "ssd" or softmax "attention".
        axes: spatial axes of the image.
        states, expand, groups, positive: of ``VSSD``; its heads have ``expand * dim / heads`` channels.
        mlp_ratio: hidden channels of the MLPs for each channel.
        simple: whether the stem, and the downsampling, is a single convolution.
        drop_path: as in ``hierarchical``.

    Raises:
        ValueError: if the numbers of stages differ, or for an unknown kind.
    """
    if len(kinds) != len(dims) or not set(kinds) <= set(get_args(StageKind)):
        allowed = ", ".join(get_args(StageKind))
        raise ValueError(f"vssd_backbone: kinds {tuple(kinds)}, expected one of {allowed} for each of {len(dims)} stages")
    makers = {
        "ssd": partial(vssd, states=states, expand=expand, groups=groups, positive=positive),
        "attention": partial(global_attention, qkv_bias=False),
    }

    def mixer(dim: int, *, heads: int, axes: int, stage: int, index: int) -> nn.Module:
        return makers[kinds[stage]](dim, heads=heads, axes=axes, stage=stage, index=index)

    return hierarchical(
        channels,
        dims=dims,
        depths=depths,
        heads=heads,
        mixer=mixer,
        axes=axes,
        stem=PatchConvStem if simple[0] else ConvStem,
        block=partial(vssd_block, mlp_ratio=mlp_ratio),
        downsample=ConvDownsample if simple[1] else InvertedDownsample,
        drop_path=drop_path,
    )
