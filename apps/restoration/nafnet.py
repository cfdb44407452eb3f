"""NAFNet: deblurring and denoising by a U-shaped network without activations (Chen et al. 2022)."""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.blocks.metaformer import MetaFormerBlock
from ...core.layers.linear import Linear
from ...core.layers.reuse import add
from ...core.layers.simple_gate import SimpleChannelAttention, SimpleGateConv, SimpleGateMLP
from .network import Network


class NAFNet(Network):
    """Blocks of gated convolution and channel attention at falling and rising resolutions, joined by sums.

    Source: Chen et al. 2022, "Simple Baselines for Image Restoration", section 4. Channel attention sees the whole image, so that
    the result on tiles depends on them; ``local_window`` (Chu et al. 2022) bounds what it sees.

    Args:
        dim: channels at full resolution; they double as height and width halve.
        encoder: blocks of each resolution on the way down.
        middle: blocks at the lowest resolution.
        decoder: blocks of each resolution on the way up, the lowest first.
        in_channels: of images, in and out.
        local_window: rows and columns, in pixels of the image, over which channel attention takes its means in evaluation and
            training alike; 1.5 times the images of training in the authors' tests for GoPro and REDS (384). None: all.
        fast_local: take those means over fewer positions, as the authors' fast form does, which changes the result.

    Raises:
        ValueError: if encoder and decoder differ in length, or for a window that is empty at the lowest resolution.
    """

    fill = "zeros"
    unsafe: ClassVar[dict[torch.dtype, str]] = {
        torch.float16: "products of channels have no bound, and leave the range of float16 unnoticed"
    }

    def __init__(
        self,
        dim: int = 32,
        encoder: Sequence[int] = (1, 1, 1, 28),
        *,
        middle: int = 1,
        decoder: Sequence[int] = (1, 1, 1, 1),
        in_channels: int = 3,
        local_window: tuple[int, int] | None = None,
        fast_local: bool = False,
    ) -> None:
        super().__init__()
        if len(encoder) != len(decoder):
            raise ValueError(
                f"NAFNet: {len(encoder)} resolutions on the way down and {len(decoder)} on the way up, expected as many"
            )
        self.scale, self.in_channels, self.out_channels = 1, in_channels, in_channels
        self.multiple = 2 ** len(encoder)
        self.halo = 4 * self.multiple
        dims = [dim * 2**level for level in range(len(encoder) + 1)]
        self.intro = nn.Conv2d(in_channels, dim, 3, padding=1)
        self.encoders = nn.ModuleList(_blocks(c, depth) for c, depth in zip(dims[:-1], encoder, strict=True))
        self.downs = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, stride=2) for c in dims[:-1])
        self.middle = _blocks(dims[-1], middle)
        self.ups = nn.ModuleList(Linear(c, 2 * c, bias=False) for c in dims[:0:-1])
        self.decoders = nn.ModuleList(_blocks(c, depth) for c, depth in zip(dims[-2::-1], decoder, strict=True))
        self.ending = nn.Conv2d(dim, in_channels, 3, padding=1)
        self.set_local_window(local_window, fast=fast_local)

    def set_local_window(self, window: tuple[int, int] | None, *, fast: bool = False) -> None:
        """Choose over how many rows and columns of the image channel attention takes its means; None: all of them.

        Raises:
            ValueError: if less than one position is left of the window at the lowest resolution.
        """
        if window is not None and min(window) < self.multiple:
            raise ValueError(f"NAFNet: local window is {window}, expected at least {self.multiple} rows and columns")
        levels = len(self.encoders)
        stages = [*enumerate(self.encoders), (levels, self.middle), *((levels - 1 - i, d) for i, d in enumerate(self.decoders))]
        for level, stage in stages:
            for module in stage.modules():
                if isinstance(module, SimpleChannelAttention):
                    module.window = None if window is None else (window[0] >> level, window[1] >> level)
                    module.step = max(1, 5 >> level) if fast else None

    def body(self, x_BCHW: Tensor) -> Tensor:
        y_BHWC = self.intro(x_BCHW.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)
        skips_BHWC = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            y_BHWC = encoder(y_BHWC)
            skips_BHWC.append(y_BHWC)
            y_BHWC = down(y_BHWC.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        y_BHWC = self.middle(y_BHWC)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            fine_BHWC = F.pixel_shuffle(up(y_BHWC).permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
            y_BHWC = decoder(add(fine_BHWC, skips_BHWC.pop()))
        return add(self.ending(y_BHWC.permute(0, 3, 1, 2)), x_BCHW)


def _blocks(dim: int, depth: int) -> nn.Sequential:
    return nn.Sequential(
        *(
            MetaFormerBlock(
                dim,
                SimpleGateConv(dim, 2 * dim),
                channel_mixer=SimpleGateMLP(dim, 2 * dim),
                norm=partial(nn.LayerNorm, eps=1e-6),
                layer_scale=0.0,
            )
            for _ in range(depth)
        )
    )
