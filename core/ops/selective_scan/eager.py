"""Selective scan in PyTorch: any device, any floating dtype, differentiable.

Shapes as in ``reference.py``, and T the steps of a chunk. The sequence is cut into chunks. Inside a chunk the recurrence is the
inclusive prefix "sum" of the pairs (decay, input) under (a, x) (b, y) = (a b, b x + y), done in log2(T) passes over all steps at
once (Hillis and Steele 1986); chunks follow each other. Only products of decays appear, no quotients of exponentials, so
nothing underflows that matters. Training keeps the state at the borders of chunks, and recomputes the inside of one chunk at a
time.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

CHUNK = 32


def _chunk(
    h_BKDN: Tensor, u_BKTD: Tensor, dt_BKTD: Tensor, A_KDN: Tensor, B_BKTGN: Tensor, C_BKTGN: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the outputs (B, K, T, D) of one chunk that starts in state h, and the state after it."""
    batch, routes, steps, groups, states = B_BKTGN.shape
    grouped = (batch, routes, steps, groups, -1)  # a row of B or C serves all channels of its group
    decay_BKTDN = torch.exp(dt_BKTD[..., None] * A_KDN[:, None])
    state_BKTDN = ((dt_BKTD * u_BKTD).reshape(grouped)[..., None] * B_BKTGN[:, :, :, :, None]).flatten(3, 4)
    step = 1
    while step < steps:
        late = decay_BKTDN[:, :, step:]
        state_BKTDN = torch.cat(
            (state_BKTDN[:, :, :step], torch.addcmul(state_BKTDN[:, :, step:], late, state_BKTDN[:, :, :-step])), dim=2
        )
        decay_BKTDN = torch.cat((decay_BKTDN[:, :, :step], late * decay_BKTDN[:, :, :-step]), dim=2)
        step *= 2
    state_BKTDN = torch.addcmul(state_BKTDN, decay_BKTDN, h_BKDN[:, :, None])
    y_BKTD = (state_BKTDN.reshape(*grouped, states) * C_BKTGN[:, :, :, :, None]).sum(-1).flatten(3)
    return y_BKTD, state_BKTDN[:, :, -1]


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
    """Scan all routes side by side, chunk after chunk; return y (B, L, D) and the last states (B, K, D, N)."""
    batch, length, routes, dim = dt_BLKD.shape
    dt_BLKD = dt_BLKD if dt_bias_KD is None else dt_BLKD + dt_bias_KD
    dt_BLKD = F.softplus(dt_BLKD) if softplus else dt_BLKD
    route_K1 = torch.arange(routes, device=u_BLKD.device)[:, None]

    def walk(x_BLK: Tensor) -> Tensor:
        """Put the positions of every route into its order: (B, L, K, ...) to (B, K, L, ...)."""
        x_BKL = x_BLK.transpose(1, 2)
        return x_BKL if orders_KL is None else x_BKL.expand(-1, routes, *x_BKL.shape[2:])[:, route_K1, orders_KL]

    given = [walk(x) for x in (u_BLKD, dt_BLKD, B_BLKGN, C_BLKGN)]
    h_BKDN = u_BLKD.new_zeros(batch, routes, dim, A_KDN.shape[-1])
    outputs = []
    for start in range(0, length, CHUNK):
        u_BKTD, dt_BKTD, B_BKTGN, C_BKTGN = (x[:, :, start : start + CHUNK] for x in given)
        inputs = (h_BKDN, u_BKTD, dt_BKTD, A_KDN, B_BKTGN, C_BKTGN)
        if torch.is_grad_enabled():
            y_BKTD, h_BKDN = checkpoint(_chunk, *inputs, use_reentrant=False, preserve_rng_state=False)
        else:
            y_BKTD, h_BKDN = _chunk(*inputs)
        outputs.append(y_BKTD)
    y_BKLD = torch.cat(outputs, dim=2)
    if orders_KL is not None:
        y_BKLD = y_BKLD[:, route_K1, orders_KL.argsort(dim=1)]
    y_BLD = y_BKLD.sum(1)
    if D_KD is not None:
        y_BLD = y_BLD + (D_KD * u_BLKD).sum(2)
    return y_BLD if z_BLD is None else y_BLD * F.silu(z_BLD), h_BKDN
