"""Self-attention in cross-shaped windows."""

import torch
from torch import Tensor, nn

from ..ops.local_attention import Backend, local_attention, windows
from .conv import DepthwiseConv
from .linear import Linear
from .padding import fill_up


class StripeAttention(nn.Module):
    """Self-attention in stripes that span one axis and are ``split`` tokens wide on the others; each axis has its own heads.

    Source: Dong et al. 2022 (CSWin), section 3.2: in two dimensions half of the heads look along the columns, half along the
    rows, so that a token sees a cross. Instead of a position bias a depthwise convolution of the values is added, taken in every
    stripe by itself with zeros around it (section 3.3). Stripes at the image's end hold fewer tokens where ``split`` does not
    divide the size.

    Args:
        dim: channels in and out.
        heads: attention heads.
        axes: spatial axes, a divisor of ``dim`` and ``heads`` unless ``split`` is None.
        split: width of the stripes. None: all heads look at the whole image.
        qkv_bias: whether the projection to query, key and value has a bias.
        backend: of ``local_attention``.

    Raises:
        ValueError: if the heads cannot be shared out.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        axes: int = 2,
        split: int | None = 7,
        qkv_bias: bool = True,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        groups = 1 if split is None else axes
        if not 1 <= axes <= 3 or heads % groups or dim % heads:
            told = f"dim {dim}, heads {heads}, axes {axes}"
            raise ValueError(f"StripeAttention: {told}, expected 1 to 3 axes, {groups} | heads and heads | dim")
        self.heads, self.split, self.backend = heads, split, backend
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.positions = nn.ModuleList(DepthwiseConv(dim // groups, (3,) * axes) for _ in range(groups))
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, *size, dim) to the same shape."""
        size = tuple(x.shape[1:-1])
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        groups = []
        parts = qkv.chunk(len(self.positions), dim=-2)
        for axis, (part, conv) in enumerate(zip(parts, self.positions, strict=True)):
            stripe = size if self.split is None else tuple(n if a == axis else self.split for a, n in enumerate(size))
            q, k, v = part.unbind(-3)
            out = local_attention(q, k, v, windows(stripe), backend=self.backend)
            groups.append(out.flatten(-2) + _in_windows(v.flatten(-2), stripe, conv))
        y: Tensor = self.proj(groups[0] if len(groups) == 1 else torch.cat(groups, dim=-1))
        return y


def _in_windows(x: Tensor, window: tuple[int, ...], conv: nn.Module) -> Tensor:
    """Apply a convolution with zero padding to (batch, *size, dim), to each window as if it were an image."""
    size, axes = x.shape[1:-1], len(window)
    if all(n <= w for n, w in zip(size, window, strict=True)):
        y: Tensor = conv(x)
        return y
    # Zeros behind the image's end are what the convolution would put there.
    x = fill_up(x, window)
    for axis, w in reversed(list(enumerate(window, start=1))):
        x = torch.unflatten(x, axis, (-1, w))
    count = x.shape[1 : 2 * axes : 2]
    x = x.permute(0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), -1).flatten(0, axes)
    x = torch.unflatten(conv(x), 0, (-1, *count))
    x = x.permute(0, *(i for a in range(axes) for i in (1 + a, 1 + axes + a)), -1)
    for axis in range(axes):
        x = x.flatten(axis + 1, axis + 2)
    return x[(slice(None), *(slice(n) for n in size))]
