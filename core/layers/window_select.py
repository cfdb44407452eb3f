"""Run a block on those windows of an image that need it, and leave the others as they are.

Shapes: B batch, S one to three spatial axes, C channels, W windows on each axis.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .linear import Linear


class _Run(NamedTuple):
    """Equal windows side by side on an axis: the first one's first position and number, the positions of each, how many."""

    start: int
    first: int
    size: int
    number: int


class WindowKind(NamedTuple):
    """Windows of one shape: where their tokens lie in (B, *S, C), where they lie in (B, *W), and the tokens of one of them."""

    tokens: tuple[slice, ...]
    windows: tuple[slice, ...]
    size: tuple[int, ...]


@dataclass(frozen=True)
class WindowGrid:
    """Windows side by side, in a grid that may be shifted: position x lies in window floor((x - shift) / size) on each axis.

    These are the windows of ``WindowAttention``, with smaller ones where the grid leaves the image. No token is moved and none is
    masked: windows that are whole and those cut off at an edge or a corner are treated apart.

    Args:
        size: positions of a window on each axis.
        shift: offset of the grid on each axis.

    Raises:
        ValueError: if not 0 <= shift < size on each axis.
    """

    size: tuple[int, ...]
    shift: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.size) != len(self.shift) or not all(0 <= s < w for s, w in zip(self.shift, self.size, strict=True)):
            raise ValueError(f"WindowGrid: size is {self.size} and shift {self.shift}, expected 0 <= shift < size on each axis")

    def scaled(self, factor: int) -> "WindowGrid":
        """Return the same windows on an image that is ``factor`` times as large on each axis."""
        return WindowGrid(tuple(w * factor for w in self.size), tuple(s * factor for s in self.shift))

    def counts(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return the number of windows on each axis of an image of this size, those at the border included."""
        return tuple(runs[-1].first + runs[-1].number for runs in self._runs(size))

    def kinds(self, size: Sequence[int]) -> Iterator[WindowKind]:
        """List the kinds of windows in an image of this size: up to three on each axis, whole ones and those at either end."""
        for runs in product(*self._runs(size)):
            yield WindowKind(
                tuple(slice(run.start, run.start + run.size * run.number) for run in runs),
                tuple(slice(run.first, run.first + run.number) for run in runs),
                tuple(run.size for run in runs),
            )

    def means(self, x: Tensor) -> Tensor:
        """Average over the tokens of each window: (B, *S, C) to (B, *W, C)."""
        for axis, (w, s) in enumerate(zip(self.size, self.shift, strict=True), start=1):
            n = x.shape[axis]
            before = w - s if s else 0
            padding = [0, 0] * (x.ndim - 1 - axis) + [before, -(n + before) % w]
            sums = torch.unflatten(F.pad(x, padding), axis, (-1, w)).sum(axis + 1)
            held = torch.bincount(self._window_of(axis - 1, n), minlength=sums.shape[axis]).to(x)
            x = sums / held.view(-1, *[1] * (x.ndim - 1 - axis))
        return x

    def spread(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Give each token of an image of this size the value of its window: (B, *W) to (B, *S)."""
        for axis, n in enumerate(size):
            x = x.index_select(axis + 1, self._window_of(axis, n).to(x.device))
        return x

    def _window_of(self, axis: int, n: int) -> Tensor:
        """Return the number of the window that each of n positions of an axis lies in."""
        positions = torch.arange(n) - self.shift[axis]
        return positions.div(self.size[axis], rounding_mode="floor") + int(self.shift[axis] > 0)

    def _runs(self, size: Sequence[int]) -> list[list[_Run]]:
        if len(size) != len(self.size):
            raise ValueError(f"WindowGrid: the image has {len(size)} axes, the windows have {len(self.size)}")
        axes = []
        for n, w, s in zip(size, self.size, self.shift, strict=True):
            cut = min(s, n)
            full, rest = divmod(n - cut, w)
            first = int(cut > 0)
            runs = (_Run(0, 0, cut, 1), _Run(cut, first, w, full), _Run(n - rest, first + full, rest, 1))
            axes.append([run for run in runs if run.size and run.number])
        return axes


def on_windows(block: Callable[[Tensor], Tensor], x: Tensor, chosen: Tensor, grid: WindowGrid) -> Tensor:
    """Apply a block to the chosen windows of an image; the others pass unchanged.

    The chosen windows of a kind become one batch of small images; where all of a kind are chosen, nothing is gathered. The work
    is proportional to the number of chosen windows, but for one copy of the image.

    Args:
        block: maps (batch, *size, C) to the same shape for any size, and treats each window of the unshifted grid alone, as
            attention in these windows does and what treats every token alone: how windows are batched must not matter.
        x: (B, *S, C).
        chosen: (B, *W) bool, W as ``grid.counts`` tells.
        grid: the windows.

    Returns:
        (B, *S, C).

    Raises:
        ValueError: if ``chosen`` has another shape.
    """
    expected = (len(x), *grid.counts(x.shape[1:-1]))
    if tuple(chosen.shape) != expected:
        raise ValueError(f"on_windows: chosen has shape {list(chosen.shape)}, expected {list(expected)}")
    y = x.clone()
    for kind in grid.kinds(x.shape[1:-1]):
        tokens, of_kind = (slice(None), *kind.tokens), chosen[(slice(None), *kind.windows)]
        index = of_kind.nonzero(as_tuple=True)
        if len(index[0]) == of_kind.numel():
            y[tokens] = block(x[tokens])
        elif len(index[0]):
            _by_window(y[tokens], kind.size)[index] = block(_by_window(x[tokens], kind.size)[index])
    return y


def on_all_windows(block: Callable[[Tensor], Tensor], x: Tensor, grid: WindowGrid) -> Tensor:
    """Apply a block to all windows of an image, as ``on_windows`` does if all are chosen."""

    def cut(part: Tensor, axis: int) -> Tensor:
        """Cut along the axes from this one on, so that the unshifted windows of every piece are those of the grid."""
        if axis > len(grid.size):
            return block(part)
        shift = grid.shift[axis - 1]
        if not 0 < shift < part.shape[axis]:
            return cut(part, axis + 1)
        return torch.cat([cut(piece, axis + 1) for piece in part.tensor_split([shift], axis)], axis)

    return cut(x, 1)


class WindowChoice(NamedTuple):
    """Which windows a layer ran its block on, and why.

    logits: (B, *W), of the confidence that a window needs it. chosen: (B, *W) bool. grid: the windows, in tokens of the layer.
    """

    logits: Tensor
    chosen: Tensor
    grid: WindowGrid


class SelectedWindows(nn.Module):
    """A block that runs on those windows only of which a small predictor says that they need it.

    The predictor projects the tokens to a few channels and sees their mean and their deviation in a window, which tells a sharp
    texture from a blurred one, by an MLP. In evaluation a window is chosen if its confidence reaches the threshold. In training
    it is chosen at random with that confidence (Gumbel-softmax with two classes, Jang et al. 2017, section 2.2), and the choice
    passes the gradient of its relaxation straight through; all windows are computed then, as the gradient asks what the block
    would have done. Source: Li et al. 2024 (LMD-ViT), section 3; the deviation is ours.

    Args:
        dim: C.
        block: as in ``on_windows``.
        grid: the windows; the block's own must not be shifted.
        threshold: of the confidence.
        temperature: of the relaxation: large is smooth, small is nearly the choice itself.

    Raises:
        ValueError: for a threshold outside 0..1 or a temperature that is not positive.
    """

    def __init__(self, dim: int, block: nn.Module, grid: WindowGrid, *, threshold: float = 0.5, temperature: float = 1.0) -> None:
        super().__init__()
        if not 0 <= threshold <= 1 or temperature <= 0:
            told = f"threshold is {threshold} and temperature {temperature}"
            raise ValueError(f"SelectedWindows: {told}, expected 0 <= threshold <= 1 and temperature > 0")
        self.block, self.grid, self.threshold, self.temperature = block, grid, threshold, temperature
        hidden = max(dim // 4, 8)
        self.features = Linear(dim, hidden)
        self.confidence = nn.Sequential(Linear(2 * hidden, hidden), nn.GELU(), Linear(hidden, 1))

    def forward(self, x: Tensor, chosen: Tensor | None = None) -> tuple[Tensor, WindowChoice]:
        """Map (B, *S, C) to the same shape, and tell the choice; ``chosen`` (B, *W) bool sets it from outside."""
        logits_BW = self._logits(x)
        if chosen is None and self.training:
            uniform = torch.rand_like(logits_BW, dtype=torch.float32).clamp(1e-6, 1 - 1e-6)
            noise = uniform.log() - (-uniform).log1p()  # the difference of two Gumbel variables
            soft_BW = ((logits_BW + noise) / self.temperature).sigmoid()
            chosen = soft_BW > 0.5
            passed = self.grid.spread(chosen.to(soft_BW.dtype) + soft_BW - soft_BW.detach(), x.shape[1:-1]).unsqueeze(-1)
            y = x + passed.to(x.dtype) * (on_all_windows(self.block, x, self.grid) - x)
            return y, WindowChoice(logits_BW, chosen, self.grid)
        if chosen is None:
            chosen = logits_BW.sigmoid() >= self.threshold
        return on_windows(self.block, x, chosen, self.grid), WindowChoice(logits_BW, chosen, self.grid)

    def _logits(self, x: Tensor) -> Tensor:
        features = self.features(x)
        wide = features.to(torch.promote_types(features.dtype, torch.float32))  # the variance is a small difference
        mean, of_squares = self.grid.means(torch.cat([wide, wide.square()], -1)).chunk(2, -1)
        deviation = (of_squares - mean.square()).clamp_min(1e-6).sqrt()
        logits: Tensor = self.confidence(torch.cat([mean, deviation], -1).to(x.dtype)).squeeze(-1)
        return logits


def _by_window(x: Tensor, window: Sequence[int]) -> Tensor:
    """Give the windows axes of their own, as a view: (B, *S, C) to (B, *W, *window, C)."""
    axes = len(window)
    for axis in range(axes, 0, -1):
        x = torch.unflatten(x, axis, (-1, window[axis - 1]))
    return x.permute(0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 2 * axes + 1)
