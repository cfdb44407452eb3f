"""The layers of Restormer: attention between channels, and a gated channel mixer, both with depthwise convolutions.

Source: Zamir et al. 2022, "Restormer: Efficient Transformer for High-Resolution Image Restoration". Shapes: B batch, N positions,
H heads, D channels of a head, C all channels.
"""

import torch
from torch import Tensor, nn

from ..ops.linear import linear
from .linear import Linear
from .linear_conv import LinearConv
from .reuse import multiply


class TransposedAttention(nn.Module):
    """Attention between the channels of a head over all positions, "MDTA": (B, height, width, C) to the same shape.

    softmax(temperature * q^T k / (|q| |k|)) v^T of section 3.1, with lengths over the positions. Every position has a say: on
    tiles the result depends on the tile.

    Args:
        dim: C.
        heads: groups of channels that attend to each other, a divisor of ``dim``.
        bias: whether linear layers and convolutions have one.

    Raises:
        ValueError: if ``heads`` does not divide ``dim``.
    """

    def __init__(self, dim: int, *, heads: int, bias: bool = False) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"TransposedAttention: dim {dim} is not a multiple of heads {heads}")
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = LinearConv(dim, 3 * dim, bias=bias)
        self.proj = Linear(dim, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        dim = x.shape[-1]
        q_BNC, k_BNC, v_BNC = (self.qkv(x, i * dim, (i + 1) * dim).flatten(1, -2) for i in range(3))
        # The lengths divide the few scores, not the many entries of q and k.
        lengths = [_lengths(t).view(len(x), self.heads, -1) for t in (q_BNC, k_BNC)]
        q_BHDN, k_BHDN = (t.unflatten(-1, (self.heads, -1)).permute(0, 2, 3, 1) for t in (q_BNC, k_BNC))
        scores_BHDD = q_BHDN @ k_BHDN.mT / (lengths[0].unsqueeze(-1) * lengths[1].unsqueeze(-2))
        weights_BHDD = (scores_BHDD * self.temperature).softmax(-1)
        # What is done to v and the projection after it are one linear map, of each image its own.
        map_BCHD = torch.einsum("chd,bhde->bche", self.proj.weight.view(dim, self.heads, -1), weights_BHDD.to(x.dtype))
        maps = map_BCHD.flatten(2).unbind(0)
        out = [linear(v, weight, self.proj.bias) for v, weight in zip(v_BNC.unbind(0), maps, strict=True)]
        return torch.stack(out).view(x.shape)


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
        self.hidden = hidden
        self.fc1 = LinearConv(dim, 2 * hidden, bias=bias)
        self.fc2 = Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.fc1(x, 0, self.hidden, "gelu"), self.fc1(x, self.hidden, 2 * self.hidden)
        y: Tensor = self.fc2(multiply(gate, value))
        return y
