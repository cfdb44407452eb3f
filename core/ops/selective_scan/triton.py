"""Selective scan on a GPU: a program walks one block of channels of one sequence through all routes. Imported only where used.

The state of the block stays in registers. Forward keeps it at the start of every chunk; backward walks the chunks in reverse,
computes the states of one chunk again and goes back through them. No atomics: sums over routes happen inside a program, sums over
channels and over the batch are left to the end.

Shapes: B batch, L positions, K routes, D channels, G groups, N states, S chunks, P channel blocks of a group; of a program: c
channels, n states.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...device import launching_on
from ..swiglu import triton as gate

CHUNK = 64


@triton.jit
def _step_size(raw, SOFTPLUS: tl.constexpr):
    """Softplus as max(x, 0) + log(1 + e) with e = exp(-|x|); the factor gives back what rounding takes from 1 + e."""
    if SOFTPLUS:
        e = tl.exp(-tl.abs(raw))
        u = 1.0 + e
        small = tl.where(u == 1.0, e, tl.log(u) * (e / tl.where(u == 1.0, 1.0, u - 1.0)))
        raw = tl.maximum(raw, 0.0) + small
    return raw


@triton.jit
def _channels(dim, groups, CHANNELS: tl.constexpr):
    """What this program works on: image, group, block in the group, its channels, and which of these exist."""
    share = dim // groups
    parts = tl.cdiv(share, CHANNELS)
    part = tl.program_id(0) % parts
    group = tl.program_id(0) // parts % groups
    image = (tl.program_id(0) // parts // groups).to(tl.int64)
    within = part * CHANNELS + tl.arange(0, CHANNELS)
    return image, group, part, parts, group * share + within, within < share


@triton.jit
def _place(order, length, step, ORDERED: tl.constexpr):
    """The position that is visited at a step, inside the image whatever the order says: on a GPU nobody has checked it."""
    if ORDERED:
        step = tl.maximum(tl.minimum(tl.load(order + step), length - 1), 0)
    return tl.cast(step, tl.int64)


@triton.jit(do_not_specialize=["length"])
def _forward_kernel(
    u, dt, A, B, C, D, dt_bias, orders, y, states, last,
    ub, ul, uk, tb, tt, tk, bb, bl, bk, bg, cb, cl, ck, cg, length, dim, groups,
    ROUTES: tl.constexpr, STATES: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr,
    SKIP: tl.constexpr, BIAS: tl.constexpr, SOFTPLUS: tl.constexpr, ORDERED: tl.constexpr, SAVED: tl.constexpr,
):  # fmt: skip
    image, group, _, _, c, there = _channels(dim, groups, CHANNELS)
    n = tl.arange(0, WIDTH)
    kept = n < STATES
    chunks = tl.cdiv(length, CHUNK)
    for route in range(ROUTES):
        at_cn = (route * dim + c)[:, None] * STATES + n[None, :]
        both = there[:, None] & kept[None, :]
        A_cn = tl.load(A + at_cn, mask=both, other=0.0).to(tl.float32)
        h_cn = tl.zeros((CHANNELS, WIDTH), tl.float32)
        again = tl.where(there, route, 0) > 0
        if SKIP:
            D_c = tl.load(D + route * dim + c, mask=there, other=0.0).to(tl.float32)
        if BIAS:
            bias_c = tl.load(dt_bias + route * dim + c, mask=there, other=0.0).to(tl.float32)
        for chunk in range(chunks):
            if SAVED:
                slot = ((image * ROUTES + route) * chunks + chunk) * dim
                tl.store(states + (slot + c)[:, None] * STATES + n[None, :], h_cn, mask=both)
            for step in range(chunk * CHUNK, tl.minimum(chunk * CHUNK + CHUNK, length)):
                place = _place(orders + route * length, length, step, ORDERED)
                u_c = tl.load(u + image * ub + place * ul + route * uk + c, mask=there, other=0.0).to(tl.float32)
                dt_c = tl.load(dt + image * tb + place * tt + route * tk + c, mask=there, other=0.0).to(tl.float32)
                B_n = tl.load(B + image * bb + place * bl + route * bk + group * bg + n, mask=kept, other=0.0).to(tl.float32)
                C_n = tl.load(C + image * cb + place * cl + route * ck + group * cg + n, mask=kept, other=0.0).to(tl.float32)
                if BIAS:
                    dt_c += bias_c
                dt_c = _step_size(dt_c, SOFTPLUS)
                h_cn = tl.exp(dt_c[:, None] * A_cn) * h_cn + (dt_c * u_c)[:, None] * B_n[None, :]
                y_c = tl.sum(h_cn * C_n[None, :], 1)
                if SKIP:
                    y_c += D_c * u_c
                target = y + (image * length + place) * dim + c
                if ROUTES > 1:
                    y_c += tl.load(target, mask=again, other=0.0)
                tl.store(target, y_c, mask=there)
        tl.store(last + (image * ROUTES * dim) * STATES + at_cn, h_cn, mask=both)
        if ROUTES > 1:
            tl.debug_barrier()  # the next route reads what threads of this program wrote to y


@triton.jit(do_not_specialize=["length"])
def _backward_kernel(
    grad_y, grad_last, u, dt, A, B, C, D, dt_bias, orders, states, scratch,
    grad_u, grad_dt, grad_A, grad_B, grad_C, grad_D, grad_bias,
    ub, ul, uk, tb, tt, tk, bb, bl, bk, bg, cb, cl, ck, cg, length, dim, groups,
    ROUTES: tl.constexpr, STATES: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr,
    SKIP: tl.constexpr, BIAS: tl.constexpr, SOFTPLUS: tl.constexpr, ORDERED: tl.constexpr, SHARED: tl.constexpr,
):  # fmt: skip
    image, group, part, parts, c, there = _channels(dim, groups, CHANNELS)
    n = tl.arange(0, WIDTH)
    kept = n < STATES
    chunks = tl.cdiv(length, CHUNK)
    own_cn = tl.arange(0, CHANNELS)[:, None] * WIDTH + n[None, :]
    scratch += tl.program_id(0).to(tl.int64) * CHUNK * CHANNELS * WIDTH
    for route in range(ROUTES):
        at_cn = (route * dim + c)[:, None] * STATES + n[None, :]
        both = there[:, None] & kept[None, :]
        A_cn = tl.load(A + at_cn, mask=both, other=0.0).to(tl.float32)
        again = tl.where(there, route, 0) > 0
        of_image = image * ROUTES * dim
        # Gradient of the state after the step in hand.
        g_cn = tl.load(grad_last + of_image * STATES + at_cn, mask=both, other=0.0).to(tl.float32)
        sum_A = tl.zeros((CHANNELS, WIDTH), tl.float32)
        sum_D = tl.zeros((CHANNELS,), tl.float32)
        sum_bias = tl.zeros((CHANNELS,), tl.float32)
        if SKIP:
            D_c = tl.load(D + route * dim + c, mask=there, other=0.0).to(tl.float32)
        if BIAS:
            bias_c = tl.load(dt_bias + route * dim + c, mask=there, other=0.0).to(tl.float32)
        for back in range(chunks):
            first = (chunks - 1 - back) * CHUNK
            steps = tl.minimum(CHUNK, length - first)
            slot = ((image * ROUTES + route) * chunks + chunks - 1 - back) * dim
            h_cn = tl.load(states + (slot + c)[:, None] * STATES + n[None, :], mask=both, other=0.0)
            for step in range(steps):
                tl.store(scratch + step * CHANNELS * WIDTH + own_cn, h_cn)
                place = _place(orders + route * length, length, first + step, ORDERED)
                u_c = tl.load(u + image * ub + place * ul + route * uk + c, mask=there, other=0.0).to(tl.float32)
                dt_c = tl.load(dt + image * tb + place * tt + route * tk + c, mask=there, other=0.0).to(tl.float32)
                B_n = tl.load(B + image * bb + place * bl + route * bk + group * bg + n, mask=kept, other=0.0).to(tl.float32)
                if BIAS:
                    dt_c += bias_c
                dt_c = _step_size(dt_c, SOFTPLUS)
                h_cn = tl.exp(dt_c[:, None] * A_cn) * h_cn + (dt_c * u_c)[:, None] * B_n[None, :]
            tl.debug_barrier()  # what a thread stored in scratch, another may load
            for undone in range(steps):
                step = steps - 1 - undone
                h_cn = tl.load(scratch + step * CHANNELS * WIDTH + own_cn)
                place = _place(orders + route * length, length, first + step, ORDERED)
                u_c = tl.load(u + image * ub + place * ul + route * uk + c, mask=there, other=0.0).to(tl.float32)
                raw_c = tl.load(dt + image * tb + place * tt + route * tk + c, mask=there, other=0.0).to(tl.float32)
                B_n = tl.load(B + image * bb + place * bl + route * bk + group * bg + n, mask=kept, other=0.0).to(tl.float32)
                C_n = tl.load(C + image * cb + place * cl + route * ck + group * cg + n, mask=kept, other=0.0).to(tl.float32)
                grad_c = tl.load(grad_y + (image * length + place) * dim + c, mask=there, other=0.0).to(tl.float32)
                if BIAS:
                    raw_c += bias_c
                dt_c = _step_size(raw_c, SOFTPLUS)
                decay_cn = tl.exp(dt_c[:, None] * A_cn)
                after_cn = decay_cn * h_cn + (dt_c * u_c)[:, None] * B_n[None, :]
                g_cn += grad_c[:, None] * C_n[None, :]
                along_c = tl.sum(g_cn * B_n[None, :], 1)
                inner = (((image * length + place) * ROUTES + route) * groups + group) * parts + part
                tl.store(grad_C + inner * STATES + n, tl.sum(grad_c[:, None] * after_cn, 0), mask=kept)
                tl.store(grad_B + inner * STATES + n, tl.sum((dt_c * u_c)[:, None] * g_cn, 0), mask=kept)
                g_cn = decay_cn * g_cn
                sum_A += dt_c[:, None] * (g_cn * h_cn)
                grad_dt_c = tl.sum(g_cn * h_cn * A_cn, 1) + u_c * along_c
                if SOFTPLUS:
                    grad_dt_c = grad_dt_c * tl.sigmoid(raw_c)
                target = grad_dt + ((image * length + place) * ROUTES + route) * dim + c
                tl.store(target, grad_dt_c.to(grad_dt.dtype.element_ty), mask=there)
                sum_bias += grad_dt_c
                grad_u_c = dt_c * along_c
                if SKIP:
                    grad_u_c += D_c * grad_c
                    sum_D += grad_c * u_c
                if SHARED:
                    target = grad_u + (image * length + place) * dim + c
                    grad_u_c += tl.load(target, mask=again, other=0.0).to(tl.float32)
                else:
                    target = grad_u + ((image * length + place) * ROUTES + route) * dim + c
                tl.store(target, grad_u_c.to(grad_u.dtype.element_ty), mask=there)
            tl.debug_barrier()  # before scratch is used again, and before the next route adds to the gradient of u
        tl.store(grad_A + of_image * STATES + at_cn, sum_A, mask=both)
        if SKIP:
            tl.store(grad_D + of_image + route * dim + c, sum_D, mask=there)
        if BIAS:
            tl.store(grad_bias + of_image + route * dim + c, sum_bias, mask=there)


def _unit(x: Tensor) -> Tensor:
    """Return x with its last axis side by side, as kernels expect."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _arguments(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, dt_bias: Tensor | None, orders: Tensor | None
) -> tuple[list[Tensor], list[int], dict[str, Any], int]:
    """Tensors, numbers and switches that both kernels take, and the number of programs. Absent tensors are stood in for by u."""
    u, dt, B, C = (_unit(x) for x in (u, dt, B, C))
    batch, _, routes, _ = dt.shape
    groups, states = B.shape[3:]
    width = triton.next_power_of_2(states)
    channels = max(8, min(32, 512 // width))  # for one warp: at most 16 states of the block in a thread
    small = [u if x is None else x.contiguous() for x in (D, dt_bias, orders)]
    uk = 0 if u.shape[2] == 1 else u.stride(2)
    numbers = [u.stride(0), u.stride(1), uk, *dt.stride()[:3], *B.stride()[:4], *C.stride()[:4], *dt.shape[1::2], groups]
    switches = {"SKIP": D is not None, "BIAS": dt_bias is not None, "ORDERED": orders is not None, "num_warps": 1}
    sizes = {"ROUTES": routes, "STATES": states, "CHANNELS": channels, "WIDTH": width, "CHUNK": CHUNK}
    programs = batch * groups * triton.cdiv(dt.shape[3] // groups, channels)
    return [u, dt, A.contiguous(), B, C, *small], numbers, switches | sizes, programs


def _run(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    orders: Tensor | None,
    softplus: bool,
    saved: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    y, states, last = _fake(u, dt, A, B, C, D, dt_bias, orders, softplus, saved)
    tensors, numbers, options, programs = _arguments(u, dt, A, B, C, D, dt_bias, orders)
    with launching_on(u.device):
        _forward_kernel[(programs,)](*tensors, y, states, last, *numbers, **options, SOFTPLUS=softplus, SAVED=saved)
    return y, states, last


def _fake(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    orders: Tensor | None,
    softplus: bool,
    saved: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    del u, B, C, D, dt_bias, orders, softplus
    (batch, length, routes, dim), states = dt.shape, A.shape[-1]
    chunks = -(-length // CHUNK) if saved else 0
    shapes = (batch, length, dim), (batch, routes, chunks, dim, states), (batch, routes, dim, states)
    y, kept, last = (dt.new_empty(shape, dtype=torch.float32) for shape in shapes)
    return y, kept, last


def _run_backward(
    grad_y: Tensor,
    grad_last: Tensor,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    orders: Tensor | None,
    states: Tensor,
    softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    tensors, numbers, options, programs = _arguments(u, dt, A, B, C, D, dt_bias, orders)
    batch, length, routes, _ = dt.shape
    groups, width = B.shape[3:]

    def wide(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=u.device)

    shared = u.shape[2] == 1 and routes > 1
    scratch = wide(programs, CHUNK, options["CHANNELS"], options["WIDTH"])
    grad_u = torch.empty(u.shape, dtype=torch.float32 if shared else u.dtype, device=u.device)
    grad_dt = torch.empty(dt.shape, dtype=dt.dtype, device=dt.device)
    grad_A = wide(batch, *A.shape)
    inner = [wide(batch, length, routes, groups, programs // (batch * groups), width) for _ in range(2)]
    small = [wide(0) if x is None else wide(batch, *x.shape) for x in (D, dt_bias)]
    with launching_on(u.device):
        _backward_kernel[(programs,)](
            *(grad_y.contiguous(), grad_last.contiguous(), *tensors, states, scratch, grad_u, grad_dt, grad_A, *inner, *small),
            *numbers,
            **options,
            SOFTPLUS=softplus,
            SHARED=shared,
        )
    grad_B, grad_C = (partial.sum(4).to(x.dtype) for partial, x in zip(inner, (B, C), strict=True))
    grad_D, grad_bias = (
        partial.sum(0).to(dt.dtype if x is None else x.dtype) for partial, x in zip(small, (D, dt_bias), strict=True)
    )
    return grad_u.to(u.dtype), grad_dt, grad_A.sum(0).to(A.dtype), grad_B, grad_C, grad_D, grad_bias


def _fake_backward(
    grad_y: Tensor,
    grad_last: Tensor,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    orders: Tensor | None,
    states: Tensor,
    softplus: bool,
) -> tuple[Tensor, ...]:
    del grad_y, grad_last, orders, states, softplus
    empty = [dt.new_empty(()) if x is None else x.new_empty(x.shape) for x in (D, dt_bias)]
    return *(x.new_empty(x.shape) for x in (u, dt, A, B, C)), *empty


_INPUTS = "Tensor u, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? dt_bias, Tensor? orders"
torch.library.define("geovit::selective_scan_triton", f"({_INPUTS}, bool softplus, bool saved) -> (Tensor, Tensor, Tensor)")
torch.library.define(
    "geovit::selective_scan_triton_backward",
    f"(Tensor grad_y, Tensor grad_last, {_INPUTS}, Tensor states, bool softplus) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
torch.library.impl("geovit::selective_scan_triton", "default", _run)
torch.library.impl("geovit::selective_scan_triton_backward", "default", _run_backward)
torch.library.register_fake("geovit::selective_scan_triton", _fake)
torch.library.register_fake("geovit::selective_scan_triton_backward", _fake_backward)


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        dt_bias: Tensor | None,
        orders: Tensor | None,
        softplus: bool,
        saved: bool,
    ) -> tuple[Tensor, Tensor]:
        inputs = (u, dt, A, B, C, D, dt_bias, orders)
        y, states, last = torch.ops.geovit.selective_scan_triton(*inputs, softplus, saved)
        ctx.save_for_backward(*inputs, states)
        ctx.softplus = softplus
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_last: Tensor) -> tuple[Tensor | None, ...]:
        grads = torch.ops.geovit.selective_scan_triton_backward(grad_y, grad_last, *ctx.saved_tensors, ctx.softplus)
        small = [None if x is None else grad for x, grad in zip(ctx.saved_tensors[5:7], grads[5:], strict=True)]
        return *grads[:5], *small, None, None, None


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
    """See ``reference.selective_scan``; here tensors may differ in dtype; states, and y without a gate, are float32."""
    given = (u_BLKD, dt_BLKD, A_KDN, B_BLKGN, C_BLKGN, D_KD, dt_bias_KD)
    saved = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in given)
    y_BLD, last_BKDN = _SelectiveScan.apply(*given, orders_KL, softplus, saved)
    if z_BLD is not None:
        # The result has the dtype of the gate: not to be rounded to less than that of u.
        y_BLD = gate.swiglu(z_BLD if z_BLD.dtype == u_BLKD.dtype else z_BLD.float(), y_BLD)
    return y_BLD, last_BKDN
