"""A deblurring network that computes the blurred windows of an image only."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.blocks.metaformer import mlp_block
from ...core.layers.attention import WindowAttention
from ...core.layers.conv import Conv
from ...core.layers.linear import Linear
from ...core.layers.window_select import SelectedWindows, WindowChoice, WindowGrid
from .heads import PixelShuffle
from .network import Network


class Decision(NamedTuple):
    """What one block decided: ``choice`` as of ``SelectedWindows``, on features of 1 / ``stride`` of the image's size."""

    choice: WindowChoice
    stride: int


class LMDViT(Network):
    """A U-shaped transformer whose blocks attend in windows, in those only that a small predictor finds blurred.

    Source: Li et al. 2024, "Adaptive Window Pruning for Efficient Local Motion Deblurring" (LMD-ViT), section 3: predictors of
    blurriness trained end to end by Gumbel-softmax and a loss against masks of the blur; the windows they leave out bypass
    attention and MLP. The network is written from the paper's idea and reads no published weights. Every second block shifts its
    windows by half; each block has its own predictor. What the network makes is added to the image.

    Train it by ``with_decisions``, a loss on the image, and ``pruning_loss`` with a small factor (0.01 in the paper).

    Args:
        dim: channels at full size; they double where the size halves.
        depths: blocks of each stage on the way down, from full size to the smallest; those on the way up mirror them.
        in_channels: of images, in and out.
        head_dim: channels of an attention head, a divisor of ``dim``.
        window: tokens per window on each axis, even.
        mlp_ratio: hidden channels of the MLPs for each channel.
        threshold: confidence in blur from which on a window is computed, in evaluation: 0 computes all.
        temperature: of the relaxed decision in training.
        drop_path: probability to skip a branch of a block for a sample in training.

    Raises:
        ValueError: for an odd window, or heads that do not fit.
    """

    exact_halo = True

    def __init__(
        self,
        dim: int = 32,
        depths: Sequence[int] = (2, 2, 2, 2),
        *,
        in_channels: int = 3,
        head_dim: int = 16,
        window: int = 8,
        mlp_ratio: float = 2.0,
        threshold: float = 0.5,
        temperature: float = 1.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if window < 2 or window % 2 or dim % head_dim:
            told = f"window is {window}, dim {dim} and head_dim {head_dim}"
            raise ValueError(f"LMDViT: {told}, expected an even window and a head_dim that divides dim")
        self.scale, self.in_channels, self.out_channels = 1, in_channels, in_channels
        self.multiple = window << (len(depths) - 1)
        self.halo = _reach(depths, window)

        def stage(level: int) -> nn.ModuleList:
            wide = dim << level
            return nn.ModuleList(
                SelectedWindows(
                    wide,
                    mlp_block(
                        wide,
                        WindowAttention(wide, heads=wide // head_dim, window=(window,) * 2),
                        mlp_ratio=mlp_ratio,
                        drop_path=drop_path,
                    ),
                    WindowGrid((window,) * 2, (window // 2 * (index % 2),) * 2),
                    threshold=threshold,
                    temperature=temperature,
                )
                for index in range(depths[level])
            )

        levels = range(len(depths))
        self.first = Conv(in_channels, dim)
        self.encoders = nn.ModuleList(stage(level) for level in levels)
        self.downs = nn.ModuleList(Linear(4 * dim << level, 2 * dim << level) for level in levels[:-1])
        self.ups = nn.ModuleList(
            nn.Sequential(Linear(2 * dim << level, 4 * dim << level), PixelShuffle(2)) for level in levels[:-1]
        )
        self.fusions = nn.ModuleList(Linear(2 * dim << level, dim << level) for level in levels[:-1])
        self.decoders = nn.ModuleList(stage(level) for level in levels[:-1])
        self.last = Conv(dim, in_channels)

    def body(self, x_BCHW: Tensor) -> Tensor:
        return self._run(x_BCHW)[0]

    def with_decisions(self, x_BCHW: Tensor) -> tuple[Tensor, tuple[Decision, ...]]:
        """Return the restored image, as ``forward`` does, and each block's decision, on the image filled up to ``multiple``."""
        height, width = x_BCHW.shape[-2:]
        y_BCHW, decisions = self._run(self._filled_up(x_BCHW))
        return y_BCHW[..., :height, :width], decisions

    def _run(self, x_BCHW: Tensor) -> tuple[Tensor, tuple[Decision, ...]]:
        decisions: list[Decision] = []

        def run(stages: nn.ModuleList, y_BHWC: Tensor, level: int) -> Tensor:
            for block in cast(nn.ModuleList, stages[level]):
                y_BHWC, choice = block(y_BHWC)
                decisions.append(Decision(choice, 1 << level))
            return y_BHWC

        y_BHWC, skips = self.first(x_BCHW.permute(0, 2, 3, 1)), []
        for level in range(len(self.encoders)):
            y_BHWC = run(self.encoders, y_BHWC, level)
            if level < len(self.downs):
                skips.append(y_BHWC)
                y_BHWC = self.downs[level](F.pixel_unshuffle(y_BHWC.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1))
        for level in reversed(range(len(self.downs))):
            y_BHWC = self.fusions[level](torch.cat([self.ups[level](y_BHWC), skips[level]], -1))
            y_BHWC = run(self.decoders, y_BHWC, level)
        return x_BCHW + self.last(y_BHWC).permute(0, 3, 1, 2), tuple(decisions)


def pruning_loss(decisions: Iterable[Decision], mask_BHW: Tensor) -> Tensor:
    """Return the cross-entropy of all blocks' confidences against what is blurred, the mean over windows and then over blocks.

    A window is to be computed if any of its pixels is blurred. Windows without a pixel of the image, which filling up made, do
    not count. Source: Li et al. 2024 (LMD-ViT), section 3 (pruning loss).

    Args:
        decisions: of ``LMDViT.with_decisions``.
        mask_BHW: where the image is blurred: not zero.

    Raises:
        ValueError: if there is no decision.
    """
    blurred_BHW1 = mask_BHW.ne(0).float().unsqueeze(-1)
    losses = []
    for choice, stride in decisions:
        grid = choice.grid.scaled(stride)
        counts = grid.counts(blurred_BHW1.shape[1:3])
        share_BW = grid.means(blurred_BHW1).squeeze(-1)
        logits_BW = choice.logits[:, : counts[0], : counts[1]]
        losses.append(F.binary_cross_entropy_with_logits(logits_BW, share_BW.gt(0).to(logits_BW.dtype)))
    if not losses:
        raise ValueError("pruning_loss: there is no decision")
    return torch.stack(losses).mean()


def _reach(depths: Sequence[int], window: int) -> int:
    """Return how many pixels beyond a tile its result depends on, in multiples of the coarsest windows.

    Going back from the output, an edge of what is needed moves outward to the next border of windows in every block, and by one
    pixel in each of the two convolutions. Convolutions between the stages lie inside of whole windows.
    """
    way_down = [(level, index) for level, depth in enumerate(depths) for index in range(depth)]
    way_up = [(level, index) for level in reversed(range(len(depths) - 1)) for index in range(depths[level])]
    reach = 1
    for level, index in reversed(list(chain(way_down, way_up))):
        size = window << level
        shift = size // 2 * (index % 2)
        reach += (shift - reach) % size
    multiple = window << (len(depths) - 1)
    return -(-(reach + 1) // multiple) * multiple
