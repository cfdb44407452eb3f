"""What the layers built on ``selective_scan`` share: initial values, and one step of the recurrence.

Shapes: B batch, D inner channels, N states, R rank of the step sizes.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops.local_attention.prepare import remembered
from ..ops.selective_scan import scan_orders
from .linear import Linear


def default_rank(dim: int) -> int:
    """Return R for a layer of ``dim`` channels: one sixteenth of them, rounded up (Gu and Dao 2023, section 3.6)."""
    return math.ceil(dim / 16)


@remembered(16)
def orders_on(device: torch.device, size: tuple[int, ...], routes: tuple[str, ...]) -> Tensor:
    """Return ``scan_orders`` on a device, kept: every layer wants the same, and a copy to a GPU waits for all work on it."""
    return scan_orders(size, routes).to(device)


def undecayed(values: Tensor) -> nn.Parameter:
    """Return a parameter that weight decay is not for, marked as in ``mamba_ssm`` for whoever makes the optimizer."""
    parameter = nn.Parameter(values)
    parameter._no_weight_decay = True  # type: ignore[attr-defined]  # noqa: SLF001 - the published name
    return parameter


def initial_rates(dim: int, state: int) -> Tensor:
    """Return log(1) to log(N) for each of ``dim`` channels, that is A = -1 to -N (S4D-real; Gu and Dao 2023, section 3.6)."""
    return torch.arange(1.0, state + 1).log().repeat(dim, 1)


def initial_steps(count: int, *, smallest: float = 1e-3, largest: float = 1e-1) -> Tensor:
    """Return numbers that softplus turns into step sizes, log-uniform between the bounds (Gu and Dao 2023, section 3.6)."""
    step = torch.empty(count).uniform_(math.log(smallest), math.log(largest)).exp()
    return step + torch.log(-torch.expm1(-step))  # log(exp(step) - 1), without loss for small steps


def step_projection(rank: int, dim: int) -> Linear:
    """Return the projection from R numbers to the step sizes of ``dim`` channels (Gu and Dao 2023, section 3.6).

    The weight keeps the variance of its input, the bias is that of ``initial_steps``.
    """
    proj = Linear(rank, dim)
    with torch.no_grad():
        proj.weight.uniform_(-(rank**-0.5), rank**-0.5)
        proj.bias.copy_(initial_steps(dim))
    return proj


def decay(A_log: Tensor) -> Tensor:
    """Return the rates A < 0 of the continuous system, in at least float32."""
    return -A_log.to(torch.promote_types(A_log.dtype, torch.float32)).exp()


def recurrence_step(
    h_BDN: Tensor, u_BD: Tensor, dt_BD: Tensor, A_DN: Tensor, B_BN: Tensor, C_BN: Tensor, *, D_D: Tensor, dt_bias_D: Tensor
) -> tuple[Tensor, Tensor]:
    """Take one step of ``selective_scan`` with softplus: return the output (B, D), in u's dtype, and the next state."""
    dtype = u_BD.dtype
    u_BD, dt_BD, B_BN, C_BN = (t.to(h_BDN.dtype) for t in (u_BD, dt_BD, B_BN, C_BN))
    dt_BD = F.softplus(dt_BD + dt_bias_D)
    h_BDN = torch.exp(dt_BD[..., None] * A_DN) * h_BDN + (dt_BD * u_BD)[..., None] * B_BN[:, None]
    y_BD = (h_BDN * C_BN[:, None]).sum(-1) + D_D * u_BD
    return y_BD.to(dtype), h_BDN
