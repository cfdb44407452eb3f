"""State space duality: the readable truth that every backend is compared with.

Shapes: B batch, L steps, H heads, P width of a head, G groups of neighbouring heads, N states.
"""

import torch
from torch import Tensor

from ...device import without_autocast


def ssd(
    x_BLHP: Tensor,
    dt_BLH: Tensor | None,
    A: Tensor,
    B_BLGN: Tensor,
    C_BLGN: Tensor,
    _chunk: int,
    D_H: Tensor | None,
    state_BHPN: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence step by step, in at least float32 (Dao and Gu 2024, equation 2, A being a scalar for each head)."""
    x, A, B, C = _wide(x_BLHP, A, B_BLGN, C_BLGN)
    dt = torch.ones_like(x[..., 0]) if dt_BLH is None else dt_BLH.to(x.dtype)
    state = x.new_zeros(*x[:, 0].shape, B.shape[-1]) if state_BHPN is None else state_BHPN.to(x.dtype)
    y = []
    for x_BHP, dt_BH, A_BH, B_BHN, C_BHN in zip(*(z.unbind(1) for z in (x, dt, A.expand_as(dt), B, C)), strict=True):
        decay_BH = torch.exp(dt_BH * A_BH)
        state = decay_BH[..., None, None] * state + (dt_BH[..., None] * x_BHP)[..., None] * B_BHN[..., None, :]
        y.append((state * C_BHN[..., None, :]).sum(-1))
    return _with_skip(torch.stack(y, 1), x, D_H).to(x_BLHP.dtype), state


def ssd_noncausal(x_BLHP: Tensor, dt_BLH: Tensor, A_H: Tensor, B_BLGN: Tensor, C_BLGN: Tensor, D_H: Tensor | None) -> Tensor:
    """Sum one state over all tokens and read it at each of them, in at least float32 (Shi et al. 2024, section 3.2)."""
    x, A, B, C = _wide(x_BLHP, A_H, B_BLGN, C_BLGN)
    with without_autocast(x.device):  # which einsum would follow
        state_BHPN = torch.einsum("blh,blhp,blhn->bhpn", dt_BLH.to(x.dtype) * A, x, B)
        return _with_skip(torch.einsum("bhpn,blhn->blhp", state_BHPN, C), x, D_H).to(x_BLHP.dtype)


def _wide(x_BLHP: Tensor, A: Tensor, B_BLGN: Tensor, C_BLGN: Tensor) -> tuple[Tensor, ...]:
    """Convert to at least float32 and repeat each group for its heads."""
    dtype, heads = torch.promote_types(x_BLHP.dtype, torch.float32), x_BLHP.shape[2]
    B, C = (z.to(dtype).repeat_interleave(heads // z.shape[2], 2) for z in (B_BLGN, C_BLGN))
    return x_BLHP.to(dtype), A.to(dtype), B, C


def _with_skip(y_BLHP: Tensor, x_BLHP: Tensor, D_H: Tensor | None) -> Tensor:
    return y_BLHP if D_H is None else y_BLHP + D_H.to(x_BLHP.dtype)[:, None] * x_BLHP
