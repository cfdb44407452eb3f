"""Selective scan by the compiled CPU kernel: float32; training keeps the state at every thirty-second step."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...native import native_status

DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # computed in float32
CHUNK = 32  # steps between two kept states, as in core/csrc/selective_scan.h

_Optional = Tensor | None


def _fake(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    _B: Tensor,
    _C: Tensor,
    _D: _Optional,
    z: _Optional,
    _dt_bias: _Optional,
    _orders: _Optional,
    _softplus: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (batch, length, routes, dim), states = dt.shape, A.shape[-1]
    chunks = (length + CHUNK - 1) // CHUNK
    return (
        u.new_empty(batch, length, dim),
        u.new_empty(batch, routes, dim, states),
        u.new_empty(batch if keep and z is not None else 0, length, dim),
        u.new_empty(batch if keep else 0, routes, chunks, states, dim),
    )


def _fake_backward(
    grad_y: Tensor,
    _grad_state: Tensor,
    _ungated: Tensor,
    _borders: Tensor,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: _Optional,
    z: _Optional,
    dt_bias: _Optional,
    _orders: _Optional,
    _softplus: bool,
) -> tuple[Tensor, ...]:
    routes, dim = A.shape[:2]
    parameters = [u.new_empty(routes if x is not None else 0, dim) for x in (D, dt_bias)]
    grad_z = u.new_empty(grad_y.shape[0] if z is not None else 0, *grad_y.shape[1:])
    return (*(u.new_empty(x.shape) for x in (u, dt, A, B, C)), parameters[0], grad_z, parameters[1])


if native_status()[0]:
    torch.library.register_fake("geovit::selective_scan", _fake)
    torch.library.register_fake("geovit::selective_scan_backward", _fake_backward)


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: _Optional,
        z: _Optional,
        dt_bias: _Optional,
        orders: _Optional,
        softplus: bool,
    ) -> tuple[Tensor, Tensor]:
        y, state, ungated, borders = torch.ops.geovit.selective_scan(u, dt, A, B, C, D, z, dt_bias, orders, softplus, True)
        ctx.save_for_backward(ungated, borders, u, dt, A, B, C, D, z, dt_bias, orders)
        ctx.softplus = softplus
        return y, state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_state: Tensor) -> tuple[_Optional, ...]:
        grads = torch.ops.geovit.selective_scan_backward(grad_y, grad_state, *ctx.saved_tensors, ctx.softplus)
        wanted = (grad if needed else None for grad, needed in zip(grads, ctx.needs_input_grad, strict=False))
        return (*wanted, None, None)


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
    """Scan all routes in one call, float32 on the CPU; return y (B, L, D) and the last states (B, K, D, N)."""
    given = (u_BLKD, dt_BLKD, A_KDN, B_BLKGN, C_BLKGN, D_KD, z_BLD, dt_bias_KD)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in given):
        y, state = _SelectiveScan.apply(*given, orders_KL, softplus)
    else:
        y, state, _, _ = torch.ops.geovit.selective_scan(*given, orders_KL, softplus, False)
    return y, state
