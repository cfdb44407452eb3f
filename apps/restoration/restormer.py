"""Restormer: deblurring, deraining and denoising by attention between channels (Zamir et al. 2022)."""

from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.blocks.metaformer import MetaFormerBlock
from ...core.layers.linear import Linear
from ...core.layers.norm import DeviationNorm
from ...core.layers.reuse import add
from ...core.layers.transposed_attention import GatedConvMLP, TransposedAttention
from .network import Network

NormName = Literal["layer", "deviation"]


class Restormer(Network):
    """Blocks of channel attention and gated convolution at falling and rising resolutions, joined side by side.

    Source: Zamir et al. 2022, section 3, figure 2. Attention sees the whole image, so that the result on tiles depends on them.

    Args:
        dim: channels at full resolution; they double as height and width halve.
        depths: blocks of each resolution, the same number on the way down and up.
        heads: of each resolution.
        refinement: blocks at full resolution at the end.
        ratio: hidden channels of the gated channel mixers for each channel, rounded down.
        norm: "layer" for deblurring and deraining; "deviation" without mean and bias, for denoising.
        bias: whether linear layers and convolutions inside have one.
        in_channels, out_channels: of images.
        dual_pixel: two views of a scene in, 6 channels, to one image: what is made is not added to the image, but the features of
            the first convolution are to those of the last blocks.

    Raises:
        ValueError: if depths and heads differ in length, or an image cannot be added to the result for its channels.
    """

    unsafe: ClassVar[dict[torch.dtype, str]] = {
        torch.float16: "the products of channels are summed over all pixels, which leaves the range of float16 on large images"
    }

    def __init__(
        self,
        dim: int = 48,
        depths: Sequence[int] = (4, 6, 6, 8),
        *,
        heads: Sequence[int] = (1, 2, 4, 8),
        refinement: int = 4,
        ratio: float = 2.66,
        norm: NormName = "layer",
        bias: bool = False,
        in_channels: int = 3,
        out_channels: int = 3,
        dual_pixel: bool = False,
    ) -> None:
        super().__init__()
        if len(depths) != len(heads) or not depths:
            raise ValueError(f"Restormer: depths {tuple(depths)} and heads {tuple(heads)}, expected one of each for a resolution")
        if norm not in get_args(NormName):
            raise ValueError(f"Restormer: norm is {norm!r}, allowed are {', '.join(get_args(NormName))}")
        if not dual_pixel and in_channels not in (1, out_channels):
            raise ValueError(f"Restormer: {in_channels} channels in and {out_channels} out, expected as many")
        self.scale, self.in_channels, self.out_channels = 1, in_channels, out_channels
        levels = len(depths)
        self.multiple = 2 ** (levels - 1)
        self.halo = 64 // self.multiple * self.multiple
        dims = [dim * 2**level for level in range(levels)]

        def blocks(channels: int, level: int, depth: int) -> nn.Sequential:
            return nn.Sequential(
                *(
                    MetaFormerBlock(
                        channels,
                        TransposedAttention(channels, heads=heads[level], bias=bias),
                        channel_mixer=GatedConvMLP(channels, int(channels * ratio), bias=bias),
                        norm="layer" if norm == "layer" else DeviationNorm,
                    )
                    for _ in range(depth)
                )
            )

        self.embed = nn.Conv2d(in_channels, dim, 3, padding=1, bias=False)
        self.encoders = nn.ModuleList(blocks(dims[i], i, depths[i]) for i in range(levels))
        self.downs = nn.ModuleList(nn.Conv2d(c, c // 2, 3, padding=1, bias=False) for c in dims[:-1])
        # From here on by level, finest first, though they run the other way.
        self.ups = nn.ModuleList(nn.Conv2d(c, 2 * c, 3, padding=1, bias=False) for c in dims[1:])
        self.reduces = nn.ModuleList(Linear(2 * c, c, bias=bias) for c in dims[1:-1])
        wide = [2 * dim if levels > 1 else dim, *dims[1:-1]]
        self.decoders = nn.ModuleList(blocks(wide[i], i, depths[i]) for i in range(levels - 1))
        self.refinement = blocks(wide[0], 0, refinement)
        self.skip = Linear(dim, wide[0], bias=bias) if dual_pixel else None
        self.output = nn.Conv2d(wide[0], out_channels, 3, padding=1, bias=bias)

    def body(self, x_BCHW: Tensor) -> Tensor:
        first_BHWC = _last(self.embed(x_BCHW.contiguous(memory_format=torch.channels_last)))
        y_BHWC, skips_BHWC = first_BHWC, []
        for level, encoder in enumerate(self.encoders):
            if level:
                y_BHWC = _last(F.pixel_unshuffle(self.downs[level - 1](_first(y_BHWC)), 2))
            y_BHWC = encoder(y_BHWC)
            skips_BHWC.append(y_BHWC)
        for level in reversed(range(len(self.decoders))):
            fine_BHWC = _last(F.pixel_shuffle(self.ups[level](_first(y_BHWC)), 2))
            y_BHWC = torch.cat([fine_BHWC, skips_BHWC[level]], -1)
            y_BHWC = self.decoders[level](self.reduces[level - 1](y_BHWC) if level else y_BHWC)
        y_BHWC = self.refinement(y_BHWC)
        if self.skip is not None:
            return self._made(add(self.skip(first_BHWC), y_BHWC))
        made_BCHW = self._made(y_BHWC)
        return made_BCHW + x_BCHW

    def _made(self, y_BHWC: Tensor) -> Tensor:
        out_BCHW: Tensor = self.output(_first(y_BHWC))
        return out_BCHW


def _first(x_BHWC: Tensor) -> Tensor:
    return x_BHWC.permute(0, 3, 1, 2)


def _last(x_BCHW: Tensor) -> Tensor:
    return x_BCHW.permute(0, 2, 3, 1)
