"""Selective scan of images and volumes along several routes.

Shapes: B batch, S two or three spatial axes, L their positions, C channels, D inner channels, K routes, N states, R rank of the
step sizes.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ..ops.depthwise_conv import Activation as FusedActivation
from ..ops.linear import linear
from ..ops.selective_scan import CROSS_2D, CROSS_3D, Backend, scan_orders, selective_scan
from .conv import DepthwiseConv
from .linear import Linear
from .ssm import decay, default_rank, initial_rates, orders_on, step_projection, undecayed

Activation = Literal["none", "silu", "gelu", "relu", "sigmoid"]
Gate = Literal["activated", "linear", "none"]
Refinement = Literal["layer", "conv", "softmax", "sigmoid", "gelu"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "none": nn.Identity,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
}


class SelectiveScan(nn.Module):
    """A state-space mixer that reads an image or a volume along several routes at once.

    u, z = split(in_proj(input)); u = act(depthwise convolution of u); for each route k: dt, B, C = projection k of u;
    y = sum over k of the scan of u along route k; output = out_proj(refine(y) * act(z)).

    Source: Liu et al. 2024 (VMamba), section 4.2; three axes as an extension of it. All routes read one u in place: projections
    are computed once, in the order of the image, and the outputs of the routes are summed where they belong. ``SS2D`` and
    ``SS3D`` are this class with two and three axes, and the default routes of VMamba in 2-D.

    Args:
        dim: channels in and out.
        axes: spatial axes, 2 or 3.
        state: N, states of each inner channel and route.
        expand: inner channels for each channel.
        rank: R, of the projection to the step sizes. Default: ``dim / 16``, rounded up.
        kernel: of the depthwise convolution on every axis, odd; 1 leaves it out.
        bias: whether the projections into and out of the layer have a bias.
        conv_bias: whether the depthwise convolution has one.
        activation: after the convolution and of the gate.
        gate: of the output by the second half of the first projection, "activated" or "linear"; "none" has no such half.
        refine: what happens to the summed scans before the gate, in this order: "layer" norm, "conv", a depthwise convolution
            of 3 on every axis without bias, "softmax" over the positions, "sigmoid", "gelu". VMamba's default is ("layer",).
        routes: names of ``scan_orders``. Default: four routes across an image, six through a volume.
        backend: of ``selective_scan``.

    Raises:
        ValueError: for options that are not allowed, with those that are.
    """

    def __init__(
        self,
        dim: int,
        *,
        axes: int = 2,
        state: int = 16,
        expand: float = 2.0,
        rank: int | None = None,
        kernel: int = 3,
        bias: bool = False,
        conv_bias: bool = True,
        activation: Activation = "silu",
        gate: Gate = "activated",
        refine: Sequence[Refinement] = ("layer",),
        routes: Sequence[str] | None = None,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        if axes not in (2, 3):
            raise ValueError(f"SelectiveScan: axes is {axes}, expected 2 or 3")
        if gate not in get_args(Gate):
            raise ValueError(f"SelectiveScan: gate is {gate!r}, expected 'activated', 'linear' or 'none'")
        if activation not in _ACTIVATIONS:
            raise ValueError(f"SelectiveScan: activation is {activation!r}, expected one of {', '.join(_ACTIVATIONS)}")
        inner, rank = int(expand * dim), default_rank(dim) if rank is None else rank
        self.routes = tuple(routes) if routes is not None else CROSS_2D if axes == 2 else CROSS_3D
        scan_orders((1,) * axes, self.routes)  # names of unknown routes are told here, not at the first image
        self.axes, self.rank, self.state, self.gate, self.backend = axes, rank, state, gate, backend
        self.in_proj = Linear(dim, inner if gate == "none" else 2 * inner, bias=bias)
        self.act = _ACTIVATIONS[activation]()
        # The convolution applies those that it knows, while its sums are at hand.
        fused: FusedActivation = "none" if kernel == 1 or activation == "sigmoid" else activation
        conv = partial(DepthwiseConv, inner, (kernel,) * axes, bias=conv_bias, activation=fused)
        self.conv = nn.Identity() if kernel == 1 else conv()
        self.act_after_conv = self.act if fused == "none" else nn.Identity()
        # One stack for each kind, so that all routes are projected by one product.
        count = len(self.routes)
        dt_projs = [step_projection(rank, inner) for _ in range(count)]
        self.x_proj = nn.Parameter(torch.stack([nn.Linear(inner, rank + 2 * state).weight.detach() for _ in range(count)]))
        self.dt_proj = nn.Parameter(torch.stack([proj.weight.detach() for proj in dt_projs]))
        self.dt_bias = nn.Parameter(torch.stack([proj.bias.detach() for proj in dt_projs]))
        self.A_log = undecayed(initial_rates(inner, state).repeat(count, 1, 1))
        self.D = undecayed(torch.ones(count, inner))
        self.refine = nn.Sequential(*(_refinement(kind, inner, axes) for kind in refine))
        self.out_proj = Linear(inner, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, *S, C) to the same shape."""
        size = tuple(x.shape[1:-1])
        if len(size) != self.axes:
            raise ValueError(f"SelectiveScan: x has shape {list(x.shape)}, expected (batch, {self.axes} axes, channels)")
        u, z = (self.in_proj(x), None) if self.gate == "none" else self.in_proj(x).chunk(2, dim=-1)
        u_BLD = self.act_after_conv(self.conv(u)).flatten(1, -2)
        projected_BLKP = torch.unflatten(linear(u_BLD, self.x_proj.flatten(0, 1)), -1, self.x_proj.shape[:2])
        dt_BLKR, B_BLKN, C_BLKN = torch.split(projected_BLKP, [self.rank, self.state, self.state], dim=-1)
        y_BLD = selective_scan(
            u_BLD,
            torch.einsum("blkr,kdr->blkd", dt_BLKR, self.dt_proj),
            decay(self.A_log),
            B_BLKN,
            C_BLKN,
            D=self.D,
            dt_bias=self.dt_bias,
            softplus=True,
            orders=orders_on(u_BLD.device, size, self.routes),
            backend=self.backend,
        )
        assert isinstance(y_BLD, Tensor)  # no state was asked for
        y = self.refine(torch.unflatten(y_BLD, 1, size))
        if z is not None:
            y = y * (self.act(z) if self.gate == "activated" else z)
        projected: Tensor = self.out_proj(y)
        return projected


SS2D = partial(SelectiveScan, axes=2)
SS3D = partial(SelectiveScan, axes=3)


class _PositionSoftmax(nn.Module):
    """Softmax of each channel over all positions of (B, *S, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1, -2).softmax(1).view_as(x)


def _refinement(kind: Refinement, dim: int, axes: int) -> nn.Module:
    if kind == "conv":
        return DepthwiseConv(dim, (3,) * axes, bias=False)
    simple: dict[str, type[nn.Module]] = {"softmax": _PositionSoftmax, "sigmoid": nn.Sigmoid, "gelu": nn.GELU}
    if kind == "layer":
        return nn.LayerNorm(dim)
    if kind not in simple:
        raise ValueError(f"SelectiveScan: refine has {kind!r}, allowed are {', '.join(get_args(Refinement))}")
    return simple[kind]()
