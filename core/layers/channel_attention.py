"""Attention over channels, from all of space.

Shapes: B batch, H heads, S positions, D channels of a head.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from .linear import Linear


class SqueezeExcite(nn.Module):
    """Multiply each channel by a gate computed from all channels' means over space: (batch, dim, *size) to the same shape.

    Source: Hu et al. 2018 (squeeze and excitation), equations 2 to 4. It looks at the whole image: on tiles the result depends on
    the tile.
    """

    def __init__(self, dim: int, *, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(dim // reduction, 1)
        self.squeeze = Linear(dim, hidden, bias=False)
        self.act = nn.ReLU()
        self.excite = Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.excite(self.act(self.squeeze(x.flatten(2).mean(-1)))).sigmoid()
        return x * gate.reshape(*gate.shape, *[1] * (x.ndim - 2))


class ChannelGate(nn.Module):
    """Multiply each channel by a gate computed from all channels' means over the image: (batch, *size, dim) to the same shape.

    Source: Zhang et al. 2018 (RCAN), section 3.2. It looks at the whole image: on tiles the result depends on the tile.

    Args:
        dim: channels.
        squeezed: hidden channels of the gate.
    """

    def __init__(self, dim: int, squeezed: int) -> None:
        super().__init__()
        self.squeeze, self.excite = Linear(dim, squeezed), Linear(squeezed, dim)

    def gate(self, x: Tensor) -> Tensor:
        """Return the factor of each channel, (batch, 1, ..., 1, dim)."""
        means = x.mean(tuple(range(1, x.ndim - 1)), keepdim=True)
        gate: Tensor = self.excite(F.relu(self.squeeze(means))).sigmoid()
        return gate

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class ChannelAttention(nn.Module):
    """Self-attention between the channels of a head, over all positions: (batch, *size, dim) to the same shape.

    Source: Ding et al. 2022 (DaViT), section 3.2: softmax(Q^T K / sqrt(head width)) is (head width, head width), so that the cost
    grows linearly with the number of positions. Every position has a say: on tiles the result depends on the tile.

    Args:
        dim: channels in and out.
        heads: groups of channels that attend to each other, a divisor of ``dim``.
        qkv_bias: whether the projection to query, key and value has a bias.

    Raises:
        ValueError: if ``heads`` does not divide ``dim``.
    """

    def __init__(self, dim: int, *, heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"ChannelAttention: dim {dim} is not a multiple of heads {heads}")
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        # In this order: the official code names them q, k, v, but it compares the last two.
        v_BHSD, q_BHSD, k_BHSD = self.qkv(x.flatten(1, -2)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores_BHDD = (q_BHSD * q_BHSD.shape[-1] ** -0.5).mT @ k_BHSD
        out_BHSD = v_BHSD @ scores_BHDD.softmax(-1).mT
        y: Tensor = self.proj(out_BHSD.transpose(1, 2).reshape(x.shape))
        return y
