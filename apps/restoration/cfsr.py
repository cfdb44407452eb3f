"""CFSR: super-resolution by a large-kernel convolutional former (Wu et al. 2024)."""

import copy
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.blocks.metaformer import MetaFormerBlock
from ...core.layers.conv_gate import ConvMLP, ConvModulation, EdgeConv
from ...core.layers.linear import Linear
from ...core.layers.reuse import add
from .network import Network

_MEAN_RGB = (0.4488, 0.4371, 0.4040)  # of DIV2K, taken off before the network


class CFSR(Network):
    """A transformer's skeleton with convolutions in the place of attention: large ones mix tokens, small ones refine edges.

    Source: Wu et al. 2024, "Transforming Image Super-Resolution: A ConvFormer-based Efficient Approach", section III. The
    defaults are the published network for scale 2, of 291 thousand parameters.

    Args:
        dim: channels inside.
        depths: blocks of each group; a pointwise layer with a residual ends a group.
        scale: output pixels for each input pixel on an axis.
        in_channels: of images, in and out. Of three the mean colour of DIV2K is taken off and added again.
        kernel: of the large convolutions, odd.
        mlp_ratio: hidden channels of the channel mixers for each channel.
        edges: whether the small convolutions have edge detectors of learned strength beside them, for training. They cost next
            to nothing and are no part of the published layout: ``folded`` returns the network without them.
        residual: whether what the network makes is added to the image; for scale 1 only, as for denoising.
        layer_scale: initial value of the learned factor on each branch.

    Raises:
        ValueError: if ``residual`` is asked for at another scale than 1.
    """

    exact_halo = True
    mean: Tensor

    def __init__(
        self,
        dim: int = 48,
        depths: Sequence[int] = (6, 6),
        *,
        scale: int = 2,
        in_channels: int = 3,
        kernel: int = 9,
        mlp_ratio: int = 2,
        edges: bool = False,
        residual: bool = False,
        layer_scale: float = 1e-6,
    ) -> None:
        super().__init__()
        if residual and scale != 1:
            raise ValueError(f"CFSR: scale is {scale}, but a residual network has scale 1")
        self.scale, self.in_channels, self.out_channels = scale, in_channels, in_channels
        # Convolutions of radius 1 at the start, after the body and at the end; two in each block.
        self.halo = 3 + sum(depths) * (kernel // 2 + 1)
        mean = _MEAN_RGB if in_channels == 3 else (0.0,) * in_channels
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.conv_first = nn.Conv2d(in_channels, dim, 3, padding=1)
        self.groups = nn.ModuleList(
            _Group(dim, depth, kernel=kernel, hidden=mlp_ratio * dim, edges=edges, layer_scale=layer_scale) for depth in depths
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.conv_after_body = nn.Conv2d(dim, dim, 3, padding=1)
        last = nn.Conv2d(dim, in_channels * scale**2, 3, padding=1)
        # Two names in the published layout.
        self.upsample = None if residual else last
        self.last = last if residual else None

    def body(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = x_BCHW - self.mean
        first_BCHW = self.conv_first(x_BCHW.contiguous(memory_format=torch.channels_last))
        y_BHWC = first_BCHW.permute(0, 2, 3, 1)
        for group in self.groups:
            y_BHWC = group(y_BHWC)
        y_BCHW = add(self.conv_after_body(self.norm(y_BHWC).permute(0, 3, 1, 2)), first_BCHW)
        if self.upsample is not None:
            out_BCHW: Tensor = F.pixel_shuffle(self.upsample(y_BCHW), self.scale)
        else:
            assert self.last is not None
            out_BCHW = x_BCHW + self.last(y_BCHW)
        return out_BCHW + self.mean

    def folded(self) -> "CFSR":
        """Return a copy with the edge detectors folded into the convolutions beside them, which computes the same."""
        plain = copy.deepcopy(self)
        for module in list(plain.modules()):
            if isinstance(module, ConvMLP) and isinstance(module.conv, EdgeConv):
                module.conv = module.conv.folded()
        return plain


class _Group(nn.Module):
    """Blocks, then a pointwise layer with a residual: (B, H, W, C) to the same shape."""

    def __init__(self, dim: int, depth: int, *, kernel: int, hidden: int, edges: bool, layer_scale: float) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                MetaFormerBlock(
                    dim,
                    ConvModulation(dim, kernel=kernel),
                    channel_mixer=ConvMLP(dim, hidden, edges=edges),
                    norm=partial(nn.LayerNorm, eps=1e-6),
                    layer_scale=layer_scale,
                )
                for _ in range(depth)
            )
        )
        self.proj = Linear(dim, dim)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        x_BHWC = self.blocks(x_BHWC)
        return add(self.proj(x_BHWC), x_BHWC)
