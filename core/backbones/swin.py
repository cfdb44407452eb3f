"""Swin Transformer, versions 1 and 2, on images and volumes."""

from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

from torch import nn

from ..blocks.metaformer import MetaFormerBlock, mlp_block
from ..layers.attention import WindowAttention
from ..layers.downsample import PatchMerging
from ..layers.position import AbsolutePosition, ContinuousBias
from ..registry import Registry
from .hierarchical import Pyramid, hierarchical, patch_stem


class SwinSize(NamedTuple):
    """Channels of the first stage (each further one has twice as many), blocks and heads of each stage."""

    dim: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]


SWIN_SIZES: Registry[SwinSize] = Registry(
    "size of Swin",
    {
        "tiny": SwinSize(96, (2, 2, 6, 2), (3, 6, 12, 24)),
        "small": SwinSize(96, (2, 2, 18, 2), (3, 6, 12, 24)),
        "base": SwinSize(128, (2, 2, 18, 2), (4, 8, 16, 32)),
        "large": SwinSize(192, (2, 2, 18, 2), (6, 12, 24, 48)),
    },
)


def swin(
    size: str | SwinSize = "tiny",
    *,
    channels: int = 3,
    version: Literal[1, 2] = 1,
    axes: int = 2,
    patch: int = 4,
    patch_norm: bool = True,
    window: int | Sequence[int] = 7,
    pretrained_window: Sequence[int] | None = None,
    mlp_ratio: float = 4.0,
    qkv_bias: bool = True,
    border: Literal["partial", "zeros"] = "partial",
    position_size: tuple[int, ...] | None = None,
    drop_path: float = 0.0,
) -> Pyramid:
    """Build a Swin Transformer without its classifier: (batch, channels, *size) to tokens, or to features of each stage.

    Version 1: Liu et al. 2021, section 3. Version 2: Liu et al. 2022, section 3: norms at the ends of the branches, cosine
    scores, position biases from a perceptron. Any image size will do.

    Args:
        size: a name of ``SWIN_SIZES``, or a size of your own.
        channels: of the image.
        version: of the architecture.
        axes: spatial axes.
        patch: pixels on a side of the patches that become the first tokens.
        patch_norm: whether those are normed.
        window: tokens on a side of the windows, one number or one for each stage.
        pretrained_window: version 2 only: the window of each stage in the pre-training, if another one.
        mlp_ratio: hidden channels of the MLP for each channel.
        qkv_bias: whether the projections to query (key) and value have a bias; version 2 has none for the key.
        border: how sizes that are no multiple of the window are treated, see ``WindowAttention``.
        position_size: size of the first grid of tokens, for a learned vector for each of its positions. Default: none, and then
            any size will do.
        drop_path: as in ``hierarchical``.

    Raises:
        ValueError: for an unknown size or version, or if the lists differ in length.
    """
    dim, depths, heads = SWIN_SIZES[size] if isinstance(size, str) else size
    stages = len(depths)
    windows = [window] * stages if isinstance(window, int) else list(window)
    trained = [0] * stages if pretrained_window is None else list(pretrained_window)
    if version not in (1, 2) or (version == 1 and any(trained)):
        raise ValueError(
            f"swin: version is {version}, pretrained_window {pretrained_window}, expected 1, or 2, which may have one"
        )
    if not len(windows) == len(trained) == stages:
        raise ValueError(
            f"swin: window {window} and pretrained_window {pretrained_window}, expected one for each of {stages} stages"
        )

    def mixer(dim: int, *, heads: int, axes: int, stage: int, index: int) -> nn.Module:
        side = (windows[stage],) * axes
        before = (trained[stage],) * axes if trained[stage] else None
        return WindowAttention(
            dim,
            heads=heads,
            window=side,
            shift=(windows[stage] // 2 * (index % 2),) * axes,
            shift_single=False,
            qkv_bias=qkv_bias,
            key_bias=version == 1,
            position_bias="table" if version == 1 else ContinuousBias(side, heads, pretrained=before),
            cosine=version == 2,
            border=border,
        )

    def stem(dim: int, out: int, *, axes: int) -> nn.Module:
        patches = patch_stem(dim, out, axes=axes, patch=patch, norm="layer" if patch_norm else None)
        return patches if position_size is None else nn.Sequential(patches, AbsolutePosition(out, size=position_size))

    model = hierarchical(
        channels,
        dims=[dim * 2**stage for stage in range(stages)],
        depths=depths,
        heads=heads,
        mixer=mixer,
        axes=axes,
        stem=stem,
        block=partial(mlp_block, mlp_ratio=mlp_ratio, norm_position="before" if version == 1 else "after"),
        downsample=partial(PatchMerging, norm_first=version == 1),
        drop_path=drop_path,
    )
    _initialise(model, version)
    return model


def _initialise(model: nn.Module, version: int) -> None:
    """As published: narrow normal weights, biases of zero; in version 2 branches start at zero (section 3.2)."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, MetaFormerBlock) and version == 2:
            for norm in (module.norm1, module.norm2):
                assert isinstance(norm, nn.LayerNorm)
                nn.init.zeros_(norm.weight)
