"""Retention by chunks, as matrix products: any device, any floating dtype.

Shapes: B batch, L steps, C chunks of T steps, G groups of R heads, H = G R heads, D width of queries and keys, P of values. The
logarithms of decays have length 1 on the axes B and C where they are alike along them.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ...device import without_autocast


def retention(
    q_BLGD: Tensor, k_BLGD: Tensor, v_BLHP: Tensor, log_decay: Tensor, chunk: int, state_BHDP: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Inside a chunk weigh the values explicitly, between chunks carry states (Sun et al. 2023, equation 7)."""
    dtype = torch.promote_types(v_BLHP.dtype, torch.float32)
    length, heads = v_BLHP.shape[1:3]
    groups = q_BLGD.shape[2]
    steps = min(chunk, length)
    filling = -length % steps
    # States must not be rounded to 16 bits from chunk to chunk, which autocast would do.
    with without_autocast(v_BLHP.device):
        # The sequence is filled up at its end with steps that neither write (k = v = 0) nor decay (log 1 = 0).
        if log_decay.ndim == 1:
            log_decay = log_decay.expand(1, length if filling else steps, heads)
        a_BCTH = _cut(_floored(log_decay, dtype), 1, steps)
        q_BCTGD, k_BCTGD, v_BCTHP = (_cut(x.to(dtype), 1, steps) for x in (q_BLGD, k_BLGD, v_BLHP))
        q_BCGTD, k_BCGTD = q_BCTGD.transpose(2, 3), k_BCTGD.transpose(2, 3)
        sums_BCTH = a_BCTH.cumsum(2)
        total_BC1H = sums_BCTH[:, :, -1:]

        decays_BCGRTT = torch.unflatten(decay_matrix(a_BCTH.mT, dtype), 2, (groups, -1))
        weights_BCHTT = (decays_BCGRTT * (q_BCGTD @ k_BCGTD.mT)[:, :, :, None]).flatten(2, 3)
        y_BCTHP = (weights_BCHTT @ v_BCTHP.transpose(2, 3)).transpose(2, 3)

        # What each chunk writes, then the state before each chunk, for all heads of a group in one product.
        late_BCTHP = v_BCTHP * (total_BC1H - sums_BCTH).exp().to(dtype)[..., None]
        late_BCGTRP = torch.unflatten(late_BCTHP, 3, (groups, -1)).transpose(2, 3)
        written_BCGDRP = torch.unflatten(k_BCGTD.mT @ late_BCGTRP.flatten(4), 4, late_BCGTRP.shape[4:])
        written_BHCDP = written_BCGDRP.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
        totals_BHC = total_BC1H[:, :, 0].mT.expand(-1, -1, written_BHCDP.shape[2])
        states_BHCDP = scan(written_BHCDP.flatten(3), totals_BHC, dtype).reshape(written_BHCDP.shape)
        first_BH1DP = torch.zeros_like(states_BHCDP[:, :, :1])
        if state_BHDP is not None:
            first_BH1DP = state_BHDP.to(dtype)[:, :, None]
            states_BHCDP = states_BHCDP + totals_BHC.cumsum(2).exp().to(dtype)[..., None, None] * first_BH1DP
        before_BHCDP = torch.cat([first_BH1DP, states_BHCDP[:, :, :-1]], 2)
        before_BCGDRP = torch.unflatten(before_BHCDP, 1, (groups, -1)).permute(0, 3, 1, 4, 2, 5)
        old_BCGTRP = torch.unflatten(q_BCGTD @ before_BCGDRP.flatten(4), 4, before_BCGDRP.shape[4:])
        old_BCTHP = old_BCGTRP.transpose(2, 3).flatten(3, 4)
        y_BCTHP = torch.addcmul(y_BCTHP, old_BCTHP, sums_BCTH.exp().to(dtype)[..., None])
        return y_BCTHP.flatten(1, 2)[:, :length].to(v_BLHP.dtype), states_BHCDP[:, :, -1]


def _cut(x: Tensor, axis: int, steps: int) -> Tensor:
    """Fill an axis up with zeros at its end and cut it into pieces of ``steps``."""
    filling = -x.shape[axis] % steps
    if filling:  # F.pad copies even when there is nothing to add
        x = F.pad(x, [0, 0] * (x.ndim - 1 - axis % x.ndim) + [0, filling])
    pieces: Tensor = torch.unflatten(x, axis, (-1, steps))
    return pieces


def _floored(log_decay: Tensor, dtype: torch.dtype) -> Tensor:
    """Return logarithms in float64, as differences of their sums need them, none below that of the smallest number.

    The sums over a chunk reach hundreds, and in float32 the difference of two such sums would be wrong by 1e-5. The floor changes
    no result; without it one gate of -1e30 would swallow the digits of its neighbours.
    """
    exact = torch.float32 if log_decay.device.type == "mps" else torch.float64  # MPS has no float64
    return log_decay.to(exact).clamp_min(-750.0 if dtype == torch.float64 else -110.0)


def decay_matrix(log_decay_T: Tensor, dtype: torch.dtype) -> Tensor:
    """Return exp of the sum of log_decay over j < t <= i at (..., i, j), and zero above the diagonal."""
    sums = log_decay_T.cumsum(-1)
    later = torch.ones(sums.shape[-1:] * 2, dtype=torch.bool, device=sums.device).triu(1)
    # Masked before the exponential: above the diagonal the differences are positive. In place, for this is the largest tensor.
    return (sums[..., :, None] - sums[..., None, :]).to(dtype).masked_fill_(later, -torch.inf).exp_()


def scan(x_TM: Tensor, log_decay_T: Tensor, dtype: torch.dtype, block: int = 64) -> Tensor:
    """Return h_t = exp(log_decay_t) h_{t-1} + x_t for x of (..., T, M), h before the first being zero.

    One product with the matrix of decays, or blocks of such products and this function for what the blocks hand on, so that the
    cost is linear in T.
    """
    steps = x_TM.shape[-2]
    if steps <= block:
        return decay_matrix(log_decay_T, dtype) @ x_TM
    block = math.ceil(steps / math.ceil(steps / block))
    x_KTM, a_KT = _cut(x_TM, -2, block), _cut(log_decay_T, -1, block)
    inside_KTM, sums_KT = decay_matrix(a_KT, dtype) @ x_KTM, a_KT.cumsum(-1)
    after_KM = scan(inside_KTM[..., -1, :], sums_KT[..., -1], dtype, block)
    before_KM = F.pad(after_KM, (0, 0, 1, -1))
    h_KTM = inside_KTM + sums_KT.exp().to(dtype)[..., None] * before_KM[..., None, :]
    h_TM: Tensor = h_KTM.flatten(-3, -2)[..., :steps, :]
    return h_TM
