"""The layers of Restormer: attention between channels, and a gated channel mixer, both with depthwise convolutions.

Source: Zamir et al. 2022, "Restormer: Efficient Transformer for High-Resolution Image Restoration". Shapes: B batch, N positions,
H heads, D channels of a head, C all channels.
"""

from itertools import product
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops.linear import linear
from .linear import Linear
from .linear_conv import LinearConv
from .reuse import multiply

ScoreActivation = Literal["softmax", "relu", "gelu", "sigmoid"]


class TransposedAttention(nn.Module):
    """Attention between the channels of a head over all positions, "MDTA": (B, height, width, C) to the same shape.

    softmax(temperature * q^T k / (|q| |k|)) v^T of section 3.1, with lengths over the positions. Every position has a say: on
    tiles the result depends on the tile.

    Args:
        dim: C.
        heads: groups of channels that attend to each other, a divisor of ``dim``.
        bias: whether linear layers and convolutions have one.
        activation: of the scores; "relu" in the place of the softmax makes them sparse (Li et al. 2023, DLGSANet, section 3.3).
        tile: in evaluation attention is within tiles of so many positions on each axis, which cover the image evenly and overlap,
            and the mean of what they give is taken: statistics as in training on crops of this size (Chu et al. 2022, TLC,
            section 3.2). Default: the whole image.

    Raises:
        ValueError: if ``heads`` does not divide ``dim``, for an unknown activation or an empty tile.
    """

    def __init__(
        self, dim: int, *, heads: int, bias: bool = False, activation: ScoreActivation = "softmax", tile: int | None = None
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"TransposedAttention: dim {dim} is not a multiple of heads {heads}")
        if activation not in get_args(ScoreActivation) or (tile is not None and tile < 1):
            told = f"activation is {activation!r} and tile {tile}"
            raise ValueError(f"TransposedAttention: {told}, allowed are {', '.join(get_args(ScoreActivation))} and tile >= 1")
        self.heads, self.activation, self.tile = heads, activation, tile
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = LinearConv(dim, 3 * dim, bias=bias)
        self.proj: nn.Module = Linear(dim, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        q, k, v = self.qkv(x, ("none",) * 3)
        if self.training or self.tile is None or self.tile >= max(height, width):
            return self._attend(q, k, v)
        total, times = torch.zeros_like(x), x.new_zeros(height, width, 1)
        for top, left in product(_starts(height, self.tile), _starts(width, self.tile)):
            part = slice(None), slice(top, top + self.tile), slice(left, left + self.tile)
            total[part] += self._attend(q[part], k[part], v[part])
            times[part[1:]] += 1
        return total / times

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        dim = q.shape[-1]
        q_BNC, k_BNC, v_BNC = (t.flatten(1, -2) for t in (q, k, v))
        # The lengths divide the few scores, not the many entries of q and k.
        lengths = [torch.unflatten(_lengths(t), -1, (self.heads, -1)) for t in (q_BNC, k_BNC)]
        q_BHDN, k_BHDN = (torch.unflatten(t, -1, (self.heads, -1)).permute(0, 2, 3, 1) for t in (q_BNC, k_BNC))
        scores_BHDD = q_BHDN @ k_BHDN.mT / (lengths[0].unsqueeze(-1) * lengths[1].unsqueeze(-2))
        scores_BHDD = scores_BHDD * self.temperature
        weights_BHDD = scores_BHDD.softmax(-1) if self.activation == "softmax" else getattr(F, self.activation)(scores_BHDD)
        if not isinstance(self.proj, Linear):  # an adapter
            v_BHDN = torch.unflatten(v_BNC, -1, (self.heads, -1)).permute(0, 2, 3, 1)
            adapted: Tensor = self.proj((weights_BHDD.to(v.dtype) @ v_BHDN).flatten(1, 2).mT)
            return adapted.view(v.shape)
        # What is done to v and the projection after it are one linear map, of each image its own.
        map_BCHD = torch.einsum("chd,bhde->bche", self.proj.weight.view(dim, self.heads, -1), weights_BHDD.to(v.dtype))
        maps_BCC = map_BCHD.flatten(2)
        if torch.compiler.is_exporting():  # the number of images is a variable there
            joined = v_BNC @ maps_BCC.mT
            return (joined if self.proj.bias is None else joined + self.proj.bias).view(v.shape)
        maps = maps_BCC.unbind(0)
        out = [linear(image, weight, self.proj.bias) for image, weight in zip(v_BNC.unbind(0), maps, strict=True)]
        return torch.stack(out).view(v.shape)


def _starts(size: int, tile: int) -> list[int]:
    """Return where tiles start that cover an axis evenly, as few as fit without a gap."""
    tile = min(size, tile)
    steps = (size - 1) // tile
    step = -(-(size - tile) // steps) if steps else size
    return sorted({min(start, size - tile) for start in range(0, size, step)})


def _lengths(x_BNC: Tensor) -> Tensor:
    # Several times as fast as torch's vector norm along this axis; the bound keeps a length of zero from having no gradient.
    squares_BC = x_BNC.square().sum(1, dtype=torch.promote_types(x_BNC.dtype, torch.float32))
    return squares_BC.clamp_min(1e-24).sqrt()


class GatedConvMLP(nn.Module):
    """A gated channel mixer with depthwise convolutions, "GDFN": (B, height, width, C) to the same shape.

    fc2(gelu(conv1(fc1 x)) * conv2(fc1' x)), section 3.2.

    Args:
        dim: C.
        hidden: channels of the gate.
        bias: whether linear layers and convolutions have one.
    """

    def __init__(self, dim: int, hidden: int, *, bias: bool = False) -> None:
        super().__init__()
        self.fc1 = LinearConv(dim, 2 * hidden, bias=bias)
        self.fc2 = Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.fc1(x, ("gelu", "none"))
        y: Tensor = self.fc2(multiply(gate, value))
        return y
