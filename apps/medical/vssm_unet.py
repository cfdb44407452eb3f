"""A U-net whose encoder sees far by state-space scans, for images and volumes.

Shapes: B batch, S two or three spatial axes, C channels; channels come last inside.
"""

import itertools
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ...core.blocks.metaformer import MetaFormerBlock
from ...core.layers.conv import Conv
from ...core.layers.linear import Linear
from ...core.layers.mlp import MLP
from ...core.layers.norm import InstanceNormAct
from ...core.layers.ss2d import SelectiveScan

# There and back in memory order, and once across the slices (Xing et al. 2024, figure 3).
TRI_ORIENTED = ("zyx", "zyx_reverse", "yxz")
_act = partial(InstanceNormAct, affine=True, activation="leaky_relu")


class ResidualConv(nn.Module):
    """Two convolutions of 3 on every axis with instance norm, and a residual: (B, *S, dim) to (B, *S, out).

    Source: He et al. 2016, in the form of U-Mamba (Ma et al. 2024, figure 1).
    """

    def __init__(self, dim: int, out: int, *, axes: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (Conv(n, out, kernel=(3,) * axes, bias=False) for n in (dim, out))
        self.norm1, self.norm2 = _act(out), _act(out)
        self.shortcut = nn.Identity() if dim == out else Linear(dim, out)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(x)
        y: Tensor = self.conv2(self.norm1(self.conv1(x)))
        z: Tensor = self.norm2(y, shortcut.to(y.dtype))
        return z


class Down(nn.Module):
    """A convolution of 2 with stride 2 on every axis, as one product: (B, *S, dim) to (B, *S / 2, out), even sizes."""

    def __init__(self, dim: int, out: int, *, axes: int) -> None:
        super().__init__()
        self.axes = axes
        self.proj = Linear(dim * 2**axes, out)

    def forward(self, x: Tensor) -> Tensor:
        halves = [part for n in x.shape[1:-1] for part in (n // 2, 2)]
        odd, even = range(1, 2 * self.axes, 2), range(2, 2 * self.axes + 1, 2)
        y = x.reshape(x.shape[0], *halves, x.shape[-1]).permute(0, *odd, *even, 2 * self.axes + 1)
        projected: Tensor = self.proj(y.flatten(self.axes + 1))
        return projected


class Up(nn.Module):
    """A transposed convolution of 2 with stride 2 on every axis, as one product: (B, *S, dim) to (B, *2 S, out)."""

    def __init__(self, dim: int, out: int, *, axes: int) -> None:
        super().__init__()
        self.axes = axes
        self.proj = Linear(dim, out * 2**axes)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[1:-1]
        y = self.proj(x).unflatten(-1, (*(2,) * self.axes, -1))
        interleaved = [axis for a in range(self.axes) for axis in (1 + a, 1 + self.axes + a)]
        return y.permute(0, *interleaved, 2 * self.axes + 1).reshape(x.shape[0], *(2 * n for n in size), -1)  # type: ignore[no-any-return]


class VSSMUNet(nn.Module):
    """A U-net of residual convolutions with selective scans in its encoder: (B, C, *S) to logits (B, outputs, *S), of any size.

    The full grid has convolutions alone. On each coarser one a residual convolution sees near, and then state-space blocks see
    the whole image along several routes at once: x + scan(norm(x)), then x + mlp(norm(x)). The decoder is convolutional and
    joins the encoder's features of its grid. Sizes are filled up with zeros at the end to a multiple of 2^(levels - 1), and the
    logits are cut.

    Sources: Ma et al. 2024 (U-Mamba), section 2, for state-space blocks behind residual convolutions, and the decoder; Xing et
    al. 2024 (SegMamba), section 2.2, for the three routes through a volume. Neither's weights fit: there every route is a Mamba
    with a causal convolution of its own; here all routes share projections, convolution and gate, as in VMamba (Liu et al. 2024),
    whose four routes are those across an image. The scans take their sums in float32, under autocast too.

    Args:
        in_channels: of the images.
        out_channels: of the logits.
        axes: spatial axes, 2 or 3.
        features: channels of each grid, from the full one down.
        depths: state-space blocks of each grid but the full one. Default: one.
        state: numbers that each channel of a scan remembers.
        expand: channels of a scan for each of the block.
        mlp_ratio: hidden channels of the block's MLP for each channel; 0 leaves it out, as U-Mamba does.
        routes: of the scans, by the names of ``core.ops.selective_scan.scan_orders``. Default: ``TRI_ORIENTED`` through a volume,
            the four of VMamba across an image.
        drop_path: probability to skip a branch of the last block in training; it rises linearly from 0 in the first.
        use_checkpoint: whether training computes the state-space blocks twice, to keep less memory.

    Raises:
        ValueError: for options that are not allowed.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        axes: int = 3,
        features: Sequence[int] = (24, 48, 96, 192, 256),
        depths: Sequence[int] | None = None,
        state: int = 16,
        expand: float = 2.0,
        mlp_ratio: float = 2.0,
        routes: Sequence[str] | None = None,
        drop_path: float = 0.0,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        depths = (1,) * (len(features) - 1) if depths is None else depths
        if axes not in (2, 3):
            raise ValueError(f"VSSMUNet: axes is {axes}, allowed are 2 and 3")
        if len(features) < 2 or len(depths) != len(features) - 1 or min(depths) < 0:
            told = f"features {list(features)} and depths {list(depths)}"
            raise ValueError(f"VSSMUNet: {told}, expected two or more features and one depth fewer")
        if routes is None and axes == 3:
            routes = TRI_ORIENTED
        self.axes, self.multiple, self.use_checkpoint = axes, 2 ** (len(features) - 1), use_checkpoint
        last = max(sum(depths) - 1, 1)
        rates = (drop_path * index / last for index in itertools.count())

        def block(dim: int) -> MetaFormerBlock:
            scan = SelectiveScan(dim, axes=axes, state=state, expand=expand, routes=routes)
            mlp = MLP(dim, int(mlp_ratio * dim)) if mlp_ratio else None
            return MetaFormerBlock(dim, scan, channel_mixer=mlp, drop_path=next(rates))

        pairs = list(itertools.pairwise(features))
        self.stem = ResidualConv(in_channels, features[0], axes=axes)
        self.downs = nn.ModuleList(Down(fine, coarse, axes=axes) for fine, coarse in pairs)
        self.convs = nn.ModuleList(ResidualConv(dim, dim, axes=axes) for dim in features[1:])
        self.blocks = nn.ModuleList(
            nn.Sequential(*(block(dim) for _ in range(depth))) for dim, depth in zip(features[1:], depths, strict=True)
        )
        self.ups = nn.ModuleList(Up(coarse, fine, axes=axes) for fine, coarse in pairs)
        self.joins = nn.ModuleList(ResidualConv(2 * fine, fine, axes=axes) for fine in features[:-1])
        self.head = Linear(features[0], out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, *S) to logits (B, outputs, *S).

        Raises:
            ValueError: if x has another number of axes.
        """
        size = tuple(x.shape[2:])
        if len(size) != self.axes:
            raise ValueError(f"VSSMUNet: x has shape {list(x.shape)}, expected (batch, channels, {self.axes} axes)")
        missing = [-n % self.multiple for n in size]
        x = F.pad(x, [p for m in reversed(missing) for p in (0, m)]) if any(missing) else x
        features = [self.stem(x.movedim(1, -1).contiguous())]
        for down, conv, blocks in zip(self.downs, self.convs, self.blocks, strict=True):
            x = conv(down(features[-1]))
            again = self.use_checkpoint and torch.is_grad_enabled()
            features.append(checkpoint(blocks, x, use_reentrant=False) if again else blocks(x))
        x = features.pop()
        for up, join in zip(reversed(self.ups), reversed(self.joins), strict=True):
            x = join(torch.cat([features.pop(), up(x)], dim=-1))
        logits: Tensor = self.head(x).movedim(-1, 1)
        for axis, n in enumerate(size, 2):
            logits = logits.narrow(axis, 0, n)
        return logits
