"""Self-attention by spectral correlation."""

from torch import Tensor, nn

from ..ops.linear_attention import Backend, linear_attention
from .linear import Linear


class ESSA(nn.Module):
    """Linear self-attention whose weights compare the spectra of tokens, plus the values themselves, then a projection.

    Source: Zhang et al. 2023 (ESSAformer), section 3.3; the kernel is ``feature_map="correlation"`` of ``linear_attention``. It
    costs O(tokens * dim^2). Keys are normalised over all tokens: on tiles the result depends on the tile.

    Args:
        dim: channels in and out.
        bias: whether the projection to query, key and value has a bias.
        backend: of ``linear_attention``.
    """

    def __init__(self, dim: int, *, bias: bool = True, backend: Backend = "auto") -> None:
        super().__init__()
        self.backend = backend
        self.qkv = Linear(dim, 3 * dim, bias=bias)
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, *size, dim) to the same shape."""
        q, k, v = self.qkv(x.flatten(1, -2)).chunk(3, dim=-1)
        mixed = linear_attention(q, k, v, feature_map="correlation", normalize=False, backend=self.backend)
        y: Tensor = self.proj(v + mixed)
        return y.reshape(x.shape)
