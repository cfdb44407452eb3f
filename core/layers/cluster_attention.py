"""Attention between tokens that look alike, wherever they are in the image.

Shapes: B batch, S spatial axes, N positions, C channels, T centres, G groups, H heads.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .linear import Linear

_DECAY = 0.999  # of the stored centres in training, as published


class ClusterAttention(nn.Module):
    """Self-attention in groups of similar tokens, and to the centres of all groups: (B, *S, C) to the same shape.

    Tokens are sorted by the nearest of T centres (by cosine) and cut into groups of equal size; a group attends to itself and the
    group behind it, and to the centres; both results are added. Centres are found in training by steps of k-means on each batch,
    and their running mean is stored; evaluation uses the stored ones, and before any training the means of T stretches of the
    image. Source: Liu et al. 2025 (CATANet), section 3.2 (token-aggregation block). Every position may have a say: on tiles the
    result depends on the tile.

    Args:
        dim: C.
        key_dim: channels of queries and keys.
        heads: a divisor of ``dim`` and ``key_dim``.
        centres: T.
        group: tokens of a group.
        steps: of k-means on each batch of training.
        stable: whether tokens of one centre stay in the order of the image, which decides who meets whom in a group. The
            published code leaves it to torch's sort, whose order of equal numbers is another one on other machines.

    Raises:
        ValueError: if the heads do not divide the channels.
    """

    means: Tensor
    known: Tensor

    def __init__(
        self, dim: int, *, key_dim: int, heads: int, centres: int, group: int, steps: int = 5, stable: bool = False
    ) -> None:
        super().__init__()
        if dim % heads or key_dim % heads:
            raise ValueError(f"ClusterAttention: dim {dim} and key_dim {key_dim} are not multiples of heads {heads}")
        self.heads, self.centres, self.group, self.steps, self.stable = heads, centres, group, steps, stable
        self.query, self.key, self.value = (Linear(dim, out, bias=False) for out in (key_dim, key_dim, dim))
        self.centre_key, self.centre_value = Linear(dim, key_dim, bias=False), Linear(dim, dim, bias=False)
        self.proj = nn.Sequential(Linear(dim, dim, bias=False), Linear(dim, dim, bias=False))
        self.register_buffer("means", torch.randn(centres, dim))
        self.register_buffer("known", torch.tensor(False))

    def forward(self, x: Tensor) -> Tensor:
        x_BNC = x.flatten(1, -2)
        centres_TC = self._centres(x_BNC)
        nearest_BN = _nearest(F.normalize(x_BNC, dim=-1), F.normalize(centres_TC.detach(), dim=-1))
        order_BN1 = nearest_BN.argsort(dim=-1, stable=self.stable).unsqueeze(-1)
        sorted_BNC = x_BNC.gather(1, order_BN1.expand_as(x_BNC))
        attended_BNC = self._attend(sorted_BNC, centres_TC)
        y_BNC = torch.zeros_like(attended_BNC).scatter(1, order_BN1.expand_as(attended_BNC), attended_BNC)
        if self.training:
            self._remember(centres_TC.detach())
        y: Tensor = self.proj(y_BNC.reshape(x.shape))
        return y

    def _attend(self, x_BNC: Tensor, centres_TC: Tensor) -> Tensor:
        """Attention of sorted tokens in groups, and to the centres."""
        n = x_BNC.shape[1]
        size = min(n, self.group)
        groups = -(-n // size)
        # Behind the last token the sequence runs back: to fill the last group, and for the one behind it.
        index = torch.arange((groups + 1) * size, device=x_BNC.device) % (2 * n)
        index = torch.minimum(index, 2 * n - 1 - index)

        def by_head(t: Tensor) -> Tensor:
            return torch.unflatten(t, -1, (self.heads, -1)).transpose(-2, -3)

        q_BGHND = by_head(torch.unflatten(self.query(x_BNC)[:, index[: groups * size]], 1, (groups, size)))
        k_BGHND, v_BGHND = (
            by_head(layer(x_BNC)[:, index].unfold(1, 2 * size, size).transpose(-1, -2)) for layer in (self.key, self.value)
        )
        centre_k, centre_v = (
            by_head(layer(centres_TC)).expand(*q_BGHND.shape[:2], -1, -1, -1) for layer in self._centre_layers()
        )
        # Groups are the batch: of a fifth axis torch.compile takes the strides for other ones than they are.
        near, far = (
            F.scaled_dot_product_attention(q_BGHND.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1))
            for k, v in ((k_BGHND, v_BGHND), (centre_k, centre_v))
        )
        out_BGHND = torch.unflatten(near + far, 0, q_BGHND.shape[:2])
        return out_BGHND.transpose(2, 3).flatten(3).flatten(1, 2)[:, :n]

    def _centre_layers(self) -> tuple[nn.Module, nn.Module]:
        return self.centre_key, self.centre_value

    def _centres(self, x_BNC: Tensor) -> Tensor:
        """Return the centres; in training the last step of k-means passes the gradient to the tokens."""
        centres_TC = self.means.to(x_BNC.dtype) if self.known else self._stretches(x_BNC).detach()
        if self.training:
            with torch.no_grad():
                for _ in range(self.steps - 1):
                    centres_TC = _moved(x_BNC, centres_TC)
            centres_TC = _moved(x_BNC, centres_TC)
        return centres_TC

    def _stretches(self, x_BNC: Tensor) -> Tensor:
        """Return the means of T equal stretches of the sequence, which is made longer by running back, by one token at least.

        Where T divides the tokens, the last stretches are the ones before them mirrored: equal but for rounding.
        """
        n = x_BNC.shape[1]
        index = torch.arange((n // self.centres + 1) * self.centres, device=x_BNC.device) % (2 * n)
        longer_BNC = x_BNC[:, torch.minimum(index, 2 * n - 1 - index)]
        return torch.unflatten(longer_BNC, 1, (self.centres, -1)).transpose(0, 1).flatten(1, 2).mean(1)

    @torch.no_grad()
    def _remember(self, centres_TC: Tensor) -> None:
        self.means.copy_(torch.lerp(centres_TC.to(self.means), self.means, _DECAY) if self.known else centres_TC)
        self.known.fill_(True)


@torch.no_grad()
def _nearest(x_BNC: Tensor, centres_TC: Tensor) -> Tensor:
    """Return the number of the centre with the largest cosine, of vectors of length 1."""
    return (x_BNC @ centres_TC.T).argmax(-1)


def _moved(x_BNC: Tensor, centres_TC: Tensor) -> Tensor:
    """Return the direction of the sum of the tokens that are nearest to each centre; a centre without any stays, normalised."""
    x_BNC, centres_TC = F.normalize(x_BNC, dim=-1), F.normalize(centres_TC, dim=-1)
    nearest_M = _nearest(x_BNC, centres_TC).flatten()
    sums_TC = torch.zeros_like(centres_TC).index_add(0, nearest_M, x_BNC.flatten(0, 1))
    empty_T1 = torch.bincount(nearest_M, minlength=len(centres_TC)).unsqueeze(-1) == 0
    return torch.where(empty_T1, centres_TC, F.normalize(sums_TC, dim=-1))
