"""CSWin Transformer: attention in cross-shaped windows, overlapping convolutions between the stages."""

from collections.abc import Sequence
from functools import partial

from torch import nn

from ..blocks.metaformer import mlp_block
from ..layers.downsample import StridedConv
from ..layers.stripe import StripeAttention
from .hierarchical import Pyramid, hierarchical


def cswin(
    channels: int = 3,
    *,
    dim: int = 64,
    depths: Sequence[int] = (1, 2, 21, 1),
    heads: Sequence[int] = (2, 4, 8, 16),
    split: Sequence[int | None] = (1, 2, 7, None),
    axes: int = 2,
    patch: int = 4,
    mlp_ratio: float = 4.0,
    qkv_bias: bool = True,
    drop_path: float = 0.0,
) -> Pyramid:
    """Build a CSWin Transformer (Dong et al. 2022, section 3) without its classifier; the defaults are those of CSWin-T.

    Args:
        channels: of the image.
        dim: channels of the first stage; each further one has twice as many.
        depths: blocks of each stage.
        heads: attention heads of each stage.
        split: width of the stripes in each stage; None: attention over the whole image, as in the published last stage, and as in
            any stage of the official code whose width was as large as its image.
        axes: spatial axes.
        patch: stride of the first convolution, whose kernel is 2 patch - 1.
        mlp_ratio: hidden channels of the MLP for each channel.
        qkv_bias: whether the projection to query, key and value has a bias.
        drop_path: as in ``hierarchical``.

    Raises:
        ValueError: if there is not one width for each stage.
    """
    if len(split) != len(depths):
        raise ValueError(f"cswin: split is {tuple(split)}, expected one width for each of {len(depths)} stages")

    def mixer(dim: int, *, heads: int, axes: int, stage: int, index: int) -> nn.Module:
        return StripeAttention(dim, heads=heads, axes=axes, split=split[stage], qkv_bias=qkv_bias)

    return hierarchical(
        channels,
        dims=[dim * 2**stage for stage in range(len(depths))],
        depths=depths,
        heads=heads,
        mixer=mixer,
        axes=axes,
        stem=partial(StridedConv, kernel=2 * patch - 1, stride=patch, padding=patch // 2, image=True),
        block=partial(mlp_block, mlp_ratio=mlp_ratio),
        downsample=partial(StridedConv, kernel=3, stride=2, padding=1),
        drop_path=drop_path,
    )
