"""State space duality as matrix products: any device, any floating dtype.

Shapes: B batch, L steps, H heads, P width of a head, G groups of neighbouring heads, N states.
"""

import torch
from torch import Tensor

from ...device import without_autocast
from ..linear_attention.chunked import retention
from ..linear_attention.eager import product


def ssd(
    x_BLHP: Tensor,
    dt_BLH: Tensor | None,
    A: Tensor,
    B_BLGN: Tensor,
    C_BLGN: Tensor,
    chunk: int,
    D_H: Tensor | None,
    state_BHPN: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Retention with C, B and dt x as queries, keys and values, and decays exp(dt A)."""
    dtype = torch.promote_types(x_BLHP.dtype, torch.float32)
    x, A = x_BLHP.to(dtype), A.to(dtype)
    v, log_decay = (x, A) if dt_BLH is None else (x * dt_BLH.to(dtype)[..., None], dt_BLH.to(dtype) * A)
    y, state_BHNP = retention(C_BLGN, B_BLGN, v, log_decay, chunk, None if state_BHPN is None else state_BHPN.mT)
    y = y if D_H is None else y + D_H.to(dtype)[:, None] * x
    return y.to(x_BLHP.dtype), state_BHNP.mT


def ssd_noncausal(x_BLHP: Tensor, dt_BLH: Tensor, A_H: Tensor, B_BLGN: Tensor, C_BLGN: Tensor, D_H: Tensor | None) -> Tensor:
    """Linear attention without feature map and sum of weights, all heads of a group in one product."""
    dtype = torch.promote_types(x_BLHP.dtype, torch.float32)
    x, groups = x_BLHP.to(dtype), B_BLGN.shape[2]
    # A sum over thousands of tokens must not be rounded to 16 bits on its way, which autocast would do.
    with without_autocast(x.device):
        v_BLHP = x * (dt_BLH.to(dtype) * A_H.to(dtype))[..., None]
        v_BGLRP = torch.unflatten(v_BLHP, 2, (groups, -1)).transpose(1, 2)
        y_BGLE = product(C_BLGN.to(dtype).transpose(1, 2), B_BLGN.to(dtype).transpose(1, 2), v_BGLRP.flatten(3))
        y_BLHP = torch.unflatten(y_BGLE, 3, v_BGLRP.shape[3:]).transpose(1, 2).flatten(2, 3)
        y_BLHP = y_BLHP if D_H is None else y_BLHP + D_H.to(dtype)[:, None] * x
        y: Tensor = y_BLHP.to(x_BLHP.dtype)
        return y
