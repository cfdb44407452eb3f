"""The layers of NAFNet, whose gate is a product: the first half of the channels times the second, in the place of activations.

Source: Chen et al. 2022, "Simple Baselines for Image Restoration", section 4. Shapes: B batch, H height, W width, C channels.
"""

import torch
from torch import Tensor, nn

from .linear import Linear, in_parts
from .linear_conv import LinearConv
from .reuse import multiply


class SimpleChannelAttention(nn.Module):
    """Multiply every channel by a linear function of all channels' means: (B, H, W, C) to the same shape; equation 6.

    The means are those of the whole image, so that the result on a tile depends on the tile, or, with ``window`` set, of a window
    around each position, moved inside the image at its borders (Chu et al. 2022, "Improving Image Restoration by Revisiting
    Global Information Aggregation", section 3.2: windows in the size of the images that the network was trained on).

    Args:
        dim: C.

    Attributes:
        window: rows and columns of the windows, or None for the whole image. It may be changed at any time.
        step: at most every how many positions a window counts; above 1 faster, and not the same.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = Linear(dim, dim)
        self.window: tuple[int, int] | None = None
        self.step: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[1], x.shape[2])
        if self.window is None or all(k >= n for k, n in zip(self.window, size, strict=True)):
            return multiply(x, self.proj(x.mean((1, 2), keepdim=True)))
        means, repeats = x, [1, 1]
        for i, (n, k) in enumerate(zip(size, self.window, strict=True)):
            axis = i + 1
            if self.step is None:
                means = _moving_mean(means, axis, min(k, n))
                continue
            # As the authors' fast form has it: rarer positions, of them never the first.
            repeats[i] = r = min(self.step, next(r for r in (5, 4, 3, 2, 1) if n % r == 0))
            index = torch.arange(0, n, r, device=x.device)
            index = index[1:] if len(index) > 1 else index
            means = _moving_mean(means.index_select(axis, index), axis, max(1, min(k // r, len(index))))
        # Windows that lie inside only: what is linear comes before their copies at the borders.
        gate = self.proj(means)
        for i, (n, r) in enumerate(zip(size, repeats, strict=True)):
            there = gate.shape[i + 1] * r
            index = (torch.arange(n, device=x.device) - (n - there) // 2).clamp(0, there - 1) // r
            gate = gate.index_select(i + 1, index)
        return multiply(gate, x)


def _moving_mean(x: Tensor, axis: int, count: int) -> Tensor:
    """The means of each ``count`` neighbours on an axis, which gets shorter by count - 1."""
    # One axis at a time keeps the running sums, and so their rounding, small; sixteen bits would lose them.
    dtype = torch.promote_types(x.dtype, torch.float32)
    sums = x.cumsum(axis, dtype=dtype)
    n = x.shape[axis] - count
    inside = sums.narrow(axis, count, n) - sums.narrow(axis, 0, n)
    return torch.cat([sums.narrow(axis, count - 1, 1), inside], axis).div_(count).to(x.dtype)


class SimpleGateConv(nn.Module):
    """Mix tokens by a depthwise 3 x 3 convolution, a simple gate and channel attention: (B, H, W, C) to the same shape.

    Args:
        dim: C.
        hidden: channels that are convolved, even; the gate leaves half of them.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc = LinearConv(dim, hidden)
        self.attention = SimpleChannelAttention(hidden // 2)
        self.proj = Linear(hidden // 2, dim)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.fc(x, ("none", "none"))
        y: Tensor = self.proj(self.attention(multiply(first, second)))
        return y


class SimpleGateMLP(nn.Module):
    """Two linear layers with a simple gate between: (..., C) to the same shape.

    Args:
        dim: C.
        hidden: channels between, even; the gate leaves half of them.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.fc2 = Linear(hidden // 2, dim)

    def forward(self, x: Tensor) -> Tensor:
        first, second = in_parts(self.fc1, x, 2)
        y: Tensor = self.fc2(multiply(first, second))
        return y
