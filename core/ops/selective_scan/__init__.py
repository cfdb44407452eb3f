"""The selective state-space scan of Mamba, over one sequence or along several routes through an image.

Shapes: B batch, L positions, K routes, D channels, G groups of channels, N states.
"""

from functools import reduce
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ...device import triton_status
from .._backends import Chosen, Status, choose, exporting, native_serves, resolve
from . import eager, native, reference, traced
from .orders import CROSS_2D, CROSS_3D, scan_orders

__all__ = ["CROSS_2D", "CROSS_3D", "Backend", "choose_backend", "scan_orders", "selective_scan"]

Backend = Literal["auto", "reference", "eager", "native", "triton"]


def choose_backend(device: torch.device, dtype: torch.dtype) -> tuple[Chosen, str]:
    """Return what ``backend="auto"`` means for tensors of this device and dtype, and the reason."""
    return choose(device, _kernels(device, dtype))


def _kernels(device: torch.device, dtype: torch.dtype) -> dict[Chosen, Status]:
    return {"native": native_serves(device, dtype, native.DTYPES), "triton": triton_status(device, dtype)}


def _triton(*inputs: Any) -> tuple[Tensor, Tensor]:
    from . import triton

    return triton.selective_scan(*inputs)


_FUNCTIONS = {
    "reference": reference.selective_scan,
    "eager": eager.selective_scan,
    "native": native.selective_scan,
    "triton": _triton,
}


def _refuse(name: str, tensor: Tensor, allowed: str) -> None:
    raise ValueError(f"selective_scan: {name} has shape {list(tensor.shape)}, allowed is {allowed}")


def _check_kinds(tensors: dict[str, Tensor]) -> None:
    device = tensors["u"].device
    for name, tensor in tensors.items():
        if tensor.device != device:
            raise ValueError(f"selective_scan: {name} is on {tensor.device}, but u is on {device}; one device is allowed")
        if not tensor.is_floating_point():
            raise ValueError(f"selective_scan: {name} is {tensor.dtype}, allowed are floating dtypes")


def _check_orders(orders: Tensor, routes: int, length: int, device: torch.device) -> None:
    if orders.is_floating_point() or orders.is_complex() or orders.dtype == torch.bool or orders.device != device:
        raise ValueError(f"selective_scan: orders is {orders.dtype} on {orders.device}, allowed are integers on {device}")
    if orders.shape != (routes, length):
        _refuse("orders", orders, f"{[routes, length]}: a row for each route of A, of all positions of dt")
    if device.type == "cpu" and not torch.compiler.is_compiling():  # elsewhere the look at the values would cost too much
        inside = bool(((orders >= 0) & (orders < length)).all())
        if not inside or not torch.zeros(orders.shape, dtype=torch.bool).scatter_(1, orders.long(), value=True).all():
            raise ValueError(f"selective_scan: a row of orders is no permutation of the positions 0..{length - 1}")


def _along_routes(tensors: dict[str, Tensor], orders: Tensor | None) -> dict[str, Tensor]:
    """Check the shapes, and write every tensor with its axis of routes: one route if there are no orders."""
    u, dt, A = tensors["u"], tensors["dt"], tensors["A"]
    route, where = ([], []) if orders is None else ([A.shape[0] if A.ndim else 0], ["K"])
    for name, tensor, axes in (("dt", dt, ["B", "L", *where, "D"]), ("A", A, [*where, "D", "N"])):
        if tensor.ndim != len(axes) or 0 in tensor.shape:
            _refuse(name, tensor, f"({', '.join(axes)}), none of them zero")
    (batch, length), dim, states = dt.shape[:2], dt.shape[-1], A.shape[-1]
    groups = tensors["B"].shape[-2] if tensors["B"].ndim == 4 + len(route) else 1
    allowed = {
        "u": [[batch, length, dim], [batch, length, *route, dim]],
        "dt": [[batch, length, *route, dim]],
        "A": [[*route, dim, states]],
        "B": [[batch, length, *route, states], [batch, length, *route, groups, states]],
        "D": [[*route, dim]],
        "z": [[batch, length, dim]],
        "dt_bias": [[*route, dim]],
    }
    allowed["C"] = allowed["B"]
    for name, tensor in tensors.items():
        if not any(tuple(tensor.shape) == tuple(shape) for shape in allowed[name]):
            _refuse(name, tensor, " or ".join(map(str, sorted(allowed[name], key=len))) + " to go with the shapes of dt and A")
    if groups < 1 or dim % groups:
        raise ValueError(f"selective_scan: B has {groups} groups, allowed are divisors of the {dim} channels")

    if orders is None:
        route_axis = {"u": 2, "dt": 2, "A": 0, "B": 2, "C": 2, "D": 0, "dt_bias": 0}
        tensors = {name: x.unsqueeze(route_axis[name]) if name in route_axis else x for name, x in tensors.items()}
    elif u.ndim == 3:
        tensors = tensors | {"u": u.unsqueeze(2)}
    return tensors | {name: tensors[name].unsqueeze(3) for name in ("B", "C") if tensors[name].ndim == 4}


def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    softplus: bool = False,
    orders: Tensor | None = None,
    return_state: bool = False,
    backend: Backend = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Run the input-dependent linear recurrence of Mamba over a sequence, or along several routes through one image.

    h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t,  y_t = C_t h_t + D u_t  (Gu and Dao 2023, equations 2 and 4, zero-order hold on A
    and Euler's rule on B, section 3.2), for each of D channels with N states, from h = 0. With ``z`` the result is
    y silu(z).

    With ``orders`` K routes share the image, which is never rearranged in memory: route k visits the positions orders[k, 0],
    orders[k, 1], ..., every tensor stays in image order, and y is the sum over the routes (the cross-scan of Liu et al. 2024,
    "VMamba", section 4.2).

    Args:
        u: input (B, L, D); with orders also (B, L, K, D) if each route has its own.
        dt: step sizes (B, L, D), with orders (B, L, K, D).
        A: decay rates (D, N), usually negative; with orders (K, D, N).
        B, C: input and output projections of the state, (B, L, N), or (B, L, G, N) for G groups of D/G neighbouring channels;
            with orders (B, L, K, N) or (B, L, K, G, N).
        D: weight of the input in the output, (D,), with orders (K, D).
        z: gate (B, L, D).
        dt_bias: added to dt before the softplus, (D,), with orders (K, D).
        softplus: whether the step sizes are softplus(dt + dt_bias) instead of dt + dt_bias.
        orders: integers (K, L), each row a permutation of 0..L-1: see :func:`scan_orders`. On the CPU this is checked.
        return_state: whether the last state is wanted too; not with orders.
        backend: ``auto`` takes a kernel where one exists for these tensors: ``native`` on a CPU, ``triton`` on a GPU. The result
            differs by rounding only.

    Returns:
        y (B, L, D) in the dtype of u, or y and the state h_L (B, D, N). Arithmetic and state are float32, or float64 if any
        tensor is. ``native`` and ``triton`` cannot be differentiated twice.

    Raises:
        ValueError: if shapes, dtypes, devices or orders do not fit, or a backend is asked for that cannot serve them.
    """
    optional = {"D": D, "z": z, "dt_bias": dt_bias}
    tensors = {"u": u, "dt": dt, "A": A, "B": B, "C": C} | {name: x for name, x in optional.items() if x is not None}
    _check_kinds(tensors)
    dtype = reduce(torch.promote_types, [x.dtype for x in tensors.values()], torch.float32)
    tensors = _along_routes(tensors, orders)
    if orders is not None:
        _check_orders(orders, tensors["A"].shape[0], tensors["dt"].shape[1], u.device)
        if return_state:
            raise ValueError(
                "selective_scan: return_state is True, allowed with orders is False: each route ends in its own state"
            )
    chosen = resolve("selective_scan", backend, get_args(Backend), u.device, _kernels(u.device, dtype))
    if chosen != "triton":  # whose kernels convert what they load
        tensors = {name: x.to(dtype) for name, x in tensors.items()}

    function = traced.selective_scan if exporting() and chosen == "eager" else _FUNCTIONS[chosen]
    y_BLD, state_BKDN = function(
        tensors["u"],
        tensors["dt"],
        tensors["A"],
        tensors["B"],
        tensors["C"],
        tensors.get("D"),
        tensors.get("z"),
        tensors.get("dt_bias"),
        None if orders is None else orders.long(),
        softplus,
    )
    y_BLD = y_BLD.to(u.dtype)
    return (y_BLD, state_BKDN[:, 0]) if return_state else y_BLD
