"""Selective scan in a program that is exported: the number of positions is a variable, so nothing may loop over it.

Shapes as in ``eager.py``. The sequence is cut into chunks of T steps. The prefix "sum" of ``eager.py`` is taken inside all chunks
at once, then over the states that the chunks end in, by passes whose number does not depend on the length, then both are joined.
The states of all steps are in memory together.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_CHUNK = 64
_PASSES = 16  # over the chunks: 2 ** 16 of them, 4 million positions


def selective_scan(
    u_BLKD: Tensor,
    dt_BLKD: Tensor,
    A_KDN: Tensor,
    B_BLKGN: Tensor,
    C_BLKGN: Tensor,
    D_KD: Tensor | None,
    z_BLD: Tensor | None,
    dt_bias_KD: Tensor | None,
    orders_KL: Tensor | None,
    softplus: bool,
) -> tuple[Tensor, Tensor]:
    """Return y (B, L, D) and the last states (B, K, D, N)."""
    _, length, routes, _ = dt_BLKD.shape
    groups = B_BLKGN.shape[3]
    dt_BLKD = dt_BLKD if dt_bias_KD is None else dt_BLKD + dt_bias_KD
    dt_BLKD = F.softplus(dt_BLKD) if softplus else dt_BLKD

    def cut(x_BLK: Tensor) -> Tensor:
        """Put the positions of every route into its order, fill the last chunk up: (B, L, K, ...) to (B, K, chunks, T, ...)."""
        x_BKL = x_BLK.transpose(1, 2).expand(-1, routes, *x_BLK.shape[1:2], *x_BLK.shape[3:])
        x_BKL = _along(x_BKL, orders_KL)
        filled = F.pad(x_BKL, (*(0, 0) * (x_BKL.ndim - 3), 0, -length % _CHUNK))
        chunks: Tensor = torch.unflatten(filled, 2, (-1, _CHUNK))
        return chunks

    # Steps that fill up have dt = 0: they neither write nor decay.
    u, dt, B, C = (cut(x) for x in (u_BLKD, dt_BLKD, B_BLKGN, C_BLKGN))
    decay = torch.exp(dt[..., None] * A_KDN[:, None, None])
    written = torch.unflatten(dt * u, -1, (groups, -1))[..., None] * B[..., None, :]
    state = written.flatten(4, 5)
    step = 1
    while step < _CHUNK:
        state, decay = _pass(state, decay, 3, step)
        step *= 2
    last, over = state[:, :, :, -1], decay[:, :, :, -1]
    for number in range(_PASSES):
        last, over = _pass(last, over, 2, 1 << number)
    before = F.pad(last[:, :, :-1], (0, 0, 0, 0, 1, 0))
    state = torch.addcmul(state, decay, before[:, :, :, None])
    y = (torch.unflatten(state, 4, (groups, -1)) * C[..., None, :]).sum(-1).flatten(4)
    y_BKLD = y.flatten(2, 3)[:, :, :length]
    if orders_KL is not None:
        y_BKLD = _along(y_BKLD, _inverse(orders_KL))
    y_BLD = y_BKLD.sum(1)
    if D_KD is not None:
        y_BLD = y_BLD + (D_KD * u_BLKD).sum(2)
    return y_BLD if z_BLD is None else y_BLD * F.silu(z_BLD), last[:, :, -1]


def _pass(x: Tensor, decay: Tensor, axis: int, step: int) -> tuple[Tensor, Tensor]:
    """Join each place of an axis with the one ``step`` before it; before the first lie a state of 0 and a decay of 1."""
    length = x.shape[axis]
    padding = (*(0, 0) * (x.ndim - axis - 1), step, 0)
    earlier = F.pad(x, padding).narrow(axis, 0, length)
    earlier_decay = F.pad(decay, padding, value=1.0).narrow(axis, 0, length)
    return torch.addcmul(x, decay, earlier), decay * earlier_decay


def _along(x_BKL: Tensor, orders_KL: Tensor | None) -> Tensor:
    if orders_KL is None:
        return x_BKL
    index = orders_KL.reshape(1, *orders_KL.shape, *(1,) * (x_BKL.ndim - 3))
    return x_BKL.gather(2, index.expand_as(x_BKL))


def _inverse(orders_KL: Tensor) -> Tensor:
    """Where each position stands in its route, without a sort."""
    places = torch.arange(orders_KL.shape[1], device=orders_KL.device).expand_as(orders_KL)
    return torch.zeros_like(orders_KL).scatter(1, orders_KL, places)
