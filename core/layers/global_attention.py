"""Softmax attention between all tokens."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops.local_attention import choose_backend, local_attention, windows
from .linear import Linear


class GlobalAttention(nn.Module):
    """Multi-head self-attention over all positions: (batch, *size, dim) to the same shape.

    Source: Vaswani et al. 2017, section 3.2, by the compiled kernel of ``local_attention`` or by PyTorch's fused one. The cost is
    quadratic in the number of positions.

    Args:
        dim: channels in and out.
        heads: attention heads, a divisor of ``dim``.
        qkv_bias: whether the projection to query, key and value has a bias.

    Raises:
        ValueError: if ``heads`` does not divide ``dim``.
    """

    def __init__(self, dim: int, *, heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"GlobalAttention: dim {dim} is not a multiple of heads {heads}")
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """Attend; ``seen``, bool (batch, positions), is False for those that nobody may look at. None: all are seen."""
        length = math.prod(x.shape[1:-1])
        qkv = torch.unflatten(self.qkv(x.flatten(1, -2)), -1, (3, self.heads, -1))
        if seen is None and length and choose_backend(qkv.device, qkv.dtype)[0] == "native":
            # One window that holds all: on the CPU about twice as fast as PyTorch's kernel, forward and backward.
            q, k, v = qkv.unbind(2)
            y = local_attention(q, k, v, windows((length,)))
        else:
            q, k, v = qkv.transpose(1, 3).unbind(2)
            mask = None if seen is None else seen[:, None, None]
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
        out: Tensor = self.proj(y.flatten(2))
        return out.reshape(x.shape)
