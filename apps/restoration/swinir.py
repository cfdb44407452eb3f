"""SwinIR: restoration by shifted windows."""

from collections.abc import Sequence

from ...core.blocks.metaformer import mlp_block
from ...core.layers.attention import WindowAttention
from .heads import Upsampler
from .residual import Join, ResidualGroup, ResidualNetwork


def skip_rates(largest: float, depths: Sequence[int]) -> list[list[float]]:
    """Return for each block of each group the probability to skip it in training, from 0 linearly to ``largest``."""
    step = largest / max(sum(depths) - 1, 1)
    starts = [sum(depths[:group]) for group in range(len(depths))]
    return [[step * (start + block) for block in range(depth)] for start, depth in zip(starts, depths, strict=True)]


class SwinIR(ResidualNetwork):
    """Groups of Swin blocks with a convolution behind each.

    Source: Liang et al. 2021 (SwinIR), section 3. The image is filled up to whole windows by reflection.

    Args:
        scale: output pixels for each input pixel on an axis; 1 for denoising and JPEG.
        dim: channels.
        depths: blocks of each group.
        heads: attention heads of each group, divisors of ``dim``.
        window: tokens per window on each axis. Every second block shifts the windows by half of it.
        mlp_ratio: hidden channels of the MLPs over ``dim``.
        upsampler: "pixelshuffle" (classical), "pixelshuffledirect" (light), "nearest+conv" (real), "none" (scale 1).
        join: convolutions behind each group.
        in_channels: of the image.
        image_range: factor of the image inside the network.
        qkv_bias: whether query, key and value have one.
        embed_norm: whether the features are normed before the groups.
        score_scale: factor of the scores of attention. Default ``(dim / heads) ** -0.5``.
        drop_path: probability to skip the last block in training, less for those before.

    Raises:
        ValueError: if ``depths`` and ``heads`` differ in length, or for an impossible value.
    """

    def __init__(
        self,
        scale: int,
        dim: int = 180,
        *,
        depths: Sequence[int] = (6,) * 6,
        heads: Sequence[int] = (6,) * 6,
        window: int = 8,
        mlp_ratio: float = 2.0,
        upsampler: Upsampler = "pixelshuffle",
        join: Join = "1conv",
        in_channels: int = 3,
        image_range: float = 1.0,
        qkv_bias: bool = True,
        embed_norm: bool = True,
        score_scale: float | None = None,
        drop_path: float = 0.0,
    ) -> None:
        if len(depths) != len(heads):
            raise ValueError(f"SwinIR: {len(depths)} depths and {len(heads)} heads, expected one of each for a group")
        shifts = ((0, 0), (window // 2, window // 2))
        groups = [
            ResidualGroup(
                dim,
                [
                    mlp_block(
                        dim,
                        WindowAttention(
                            dim, heads=h, window=(window,) * 2, shift=shifts[i % 2], qkv_bias=qkv_bias, scale=score_scale
                        ),
                        mlp_ratio=mlp_ratio,
                        drop_path=rate,
                    )
                    for i, rate in enumerate(rates)
                ],
                join=join,
            )
            for h, rates in zip(heads, skip_rates(drop_path, depths), strict=True)
        ]
        super().__init__(
            scale,
            dim,
            groups=groups,
            upsampler=upsampler,
            join=join,
            in_channels=in_channels,
            image_range=image_range,
            embed_norm=embed_norm,
        )
        self.multiple = window
        self.halo = 4 * window
