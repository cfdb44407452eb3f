"""Selective scan: the readable truth that every backend is compared with.

Shapes: B batch, L positions, K routes, D channels, G groups of channels, N states. Every backend is this function: one floating
dtype, axes of routes and groups always there (of size one if need be), ``u`` with one route if the routes share it.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


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
    """Step through every route (Gu and Dao 2023, equations 2 and 4); return y (B, L, D) and the last states (B, K, D, N)."""
    batch, length, _, dim = dt_BLKD.shape
    share = dim // B_BLKGN.shape[3]  # channels that share a row of B and C
    u_BLKD = u_BLKD.expand(dt_BLKD.shape)
    dt_BLKD = dt_BLKD if dt_bias_KD is None else dt_BLKD + dt_bias_KD
    dt_BLKD = F.softplus(dt_BLKD) if softplus else dt_BLKD
    orders = [list(range(length))] if orders_KL is None else orders_KL.tolist()

    y_BLD, states = torch.zeros_like(u_BLKD[:, :, 0]), []
    for route, order in enumerate(orders):
        u_LBD, dt_LBD, B_LBGN, C_LBGN = (x[:, :, route].unbind(1) for x in (u_BLKD, dt_BLKD, B_BLKGN, C_BLKGN))
        h_BDN = u_BLKD.new_zeros(batch, dim, A_KDN.shape[-1])
        y_LBD = list(u_LBD)
        for position in order:
            B_BDN, C_BDN = (x[position].repeat_interleave(share, dim=1) for x in (B_LBGN, C_LBGN))
            decay_BDN = torch.exp(dt_LBD[position][..., None] * A_KDN[route])
            h_BDN = decay_BDN * h_BDN + (dt_LBD[position] * u_LBD[position])[..., None] * B_BDN
            y_LBD[position] = (h_BDN * C_BDN).sum(-1)
        y_BLD = y_BLD + torch.stack(y_LBD, dim=1)
        if D_KD is not None:
            y_BLD = y_BLD + D_KD[route] * u_BLKD[:, :, route]
        states.append(h_BDN)
    return y_BLD if z_BLD is None else y_BLD * F.silu(z_BLD), torch.stack(states, dim=1)
