"""Token mixers by state space duality: Mamba-2 along a sequence, VSSD over an image."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops.ssd import Backend, ssd, ssd_noncausal
from ..ops.swiglu import swiglu
from .conv import DepthwiseConv
from .linear import Linear
from .ssm import decay, initial_steps, undecayed

_RATES = (1.0, 16.0)  # of Mamba-2: the initial decay rates are uniform between these


class Mamba2(nn.Module):
    """The Mamba-2 mixer: projection, causal depthwise convolution, ``ssd``, gated RMS norm, projection.

    Source: Dao and Gu 2024, section 7.1; names of the parameters as in ``mamba_ssm/modules/mamba2_simple.py``, whose state dict
    loads as it is. Each head has one decay rate and one step size for each token.

    Args:
        dim: channels in and out.
        states: size of the state of each channel.
        kernel: steps under the convolution.
        expand: channels inside for each channel of ``dim``.
        head_dim: channels inside for each head.
        groups: sets of input and output projections of the state; each serves neighbouring heads.
        bias: whether both linear projections have biases.
        conv_bias: whether the convolution has one.
        dt_limit: bounds of the step sizes.
        learn_initial_state: whether the state before the first step is a parameter; else it is zero.
        chunk: of ``ssd``.
        backend: of ``ssd``.

    Raises:
        ValueError: if ``head_dim`` does not divide the channels inside, or ``groups`` the heads.
    """

    def __init__(
        self,
        dim: int,
        *,
        states: int = 64,
        kernel: int = 4,
        expand: float = 2,
        head_dim: int = 64,
        groups: int = 1,
        bias: bool = False,
        conv_bias: bool = True,
        dt_limit: tuple[float, float] = (0.0, math.inf),
        learn_initial_state: bool = False,
        chunk: int = 64,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        self.inner, self.heads = _widths("Mamba2", dim, expand, head_dim, groups)
        self.groups, self.dt_limit, self.chunk, self.backend = groups, tuple(dt_limit), chunk, backend
        width = self.inner + 2 * groups * states
        self.in_proj = Linear(dim, self.inner + width + self.heads, bias=bias)
        self.conv1d = DepthwiseConv(width, (kernel,), bias=conv_bias, sees="before", activation="silu")
        self.dt_bias, self.A_log = _initial_rates(self.heads)
        self.D = undecayed(torch.ones(self.heads))
        self.init_states = nn.Parameter(torch.zeros(self.heads, head_dim, states)) if learn_initial_state else None
        self.norm = nn.RMSNorm(self.inner, eps=1e-5)
        self.out_proj = Linear(self.inner, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, *size, dim) to the same shape; several axes are walked through in row-major order."""
        z, xBC, dt = self.in_proj(x.flatten(1, -2)).split([self.inner, len(self.conv1d.weight), self.heads], dim=-1)
        dt = F.softplus(dt + self.dt_bias).clamp(*self.dt_limit)
        u, B, C = _parts(self.conv1d(xBC), self.inner, self.heads, self.groups)
        state = None if self.init_states is None else self.init_states.expand(len(x), -1, -1, -1)
        y = ssd(u, dt, decay(self.A_log), B, C, D=self.D, initial_state=state, chunk=self.chunk, backend=self.backend)
        assert isinstance(y, Tensor)
        y = self.norm(swiglu(z, y.flatten(2)))
        out: Tensor = self.out_proj(y)
        return out.reshape(x.shape)


class VSSD(nn.Module):
    """The mixer of VSSD: projection, depthwise convolution over space, ``ssd_noncausal``, layer norm, gate, projection.

    Source: Shi et al. 2024, section 3.2, and the class ``Mamba2`` of the authors' code with ``linear_attn_duality``. Every token
    reads one state that is summed over the whole image: on tiles the result depends on the tile.

    Args:
        dim: channels in and out.
        axes: spatial axes.
        states: size of the state of each channel.
        kernel: of the convolution on every axis, odd.
        expand: channels inside for each channel of ``dim``.
        head_dim: channels inside for each head.
        groups: sets of input and output projections of the state, None for one for each head. Head h uses set h modulo
            ``groups``, unlike in Mamba-2.
        bias: whether both linear projections have biases.
        conv_bias: whether the convolution has one.
        positive: sign of the tokens' weights dt exp(A_log): positive as in the published models, or negative, with the decay
            rates' own sign (option ``ssd_positve_dA`` of the authors' code).
        backend: of ``ssd_noncausal``.

    Raises:
        ValueError: if ``head_dim`` does not divide the channels inside or ``groups`` the heads, or the convolution is impossible.
    """

    def __init__(
        self,
        dim: int,
        *,
        axes: int = 2,
        states: int = 64,
        kernel: int = 3,
        expand: float = 2,
        head_dim: int = 64,
        groups: int | None = 1,
        bias: bool = False,
        conv_bias: bool = True,
        positive: bool = True,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        groups = int(expand * dim) // head_dim if groups is None else groups
        self.inner, self.heads = _widths("VSSD", dim, expand, head_dim, groups)
        self.groups, self.positive, self.backend = groups, positive, backend
        self.width = self.inner + 2 * groups * states
        self.in_proj = Linear(dim, self.inner + self.width + self.heads, bias=bias)
        self.conv = DepthwiseConv(self.width, (kernel,) * axes, bias=conv_bias, activation="silu")
        self.dt_bias, self.A_log = _initial_rates(self.heads)
        self.D = undecayed(torch.ones(self.heads))
        self.norm = nn.LayerNorm(self.inner)
        self.out_proj = Linear(self.inner, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, *size, dim) to the same shape."""
        z, xBC, dt = self.in_proj(x).split([self.inner, self.width, self.heads], dim=-1)
        dt = F.softplus(dt + self.dt_bias).flatten(1, -2)
        u, B, C = _parts(self.conv(xBC).flatten(1, -2), self.inner, self.heads, self.groups)
        A = -decay(self.A_log) if self.positive else decay(self.A_log)
        u, dt, A, D = self._neighbours(u, 2), self._neighbours(dt, 2), self._neighbours(A, 0), self._neighbours(self.D, 0)
        y = ssd_noncausal(u, dt, A, B, C, D=D, backend=self.backend)
        y = torch.unflatten(y, 2, (self.groups, -1)).transpose(2, 3).flatten(2)
        out: Tensor = self.out_proj(self.norm(y).reshape(z.shape) * z)
        return out

    def _neighbours(self, x: Tensor, axis: int) -> Tensor:
        """Order the heads so that those of a group are neighbours, as the op has them."""
        ordered: Tensor = torch.unflatten(x, axis, (-1, self.groups)).transpose(axis, axis + 1).flatten(axis, axis + 1)
        return ordered


def _widths(name: str, dim: int, expand: float, head_dim: int, groups: int) -> tuple[int, int]:
    """Return the channels inside and the number of heads."""
    inner = int(expand * dim)
    if inner % head_dim:
        raise ValueError(f"{name}: the {inner} channels inside (expand * dim) are not a multiple of head_dim {head_dim}")
    heads = inner // head_dim
    if groups < 1 or heads % groups:
        raise ValueError(f"{name}: {groups} groups do not divide {heads} heads")
    return inner, heads


def _initial_rates(heads: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Return the bias of the step sizes, before softplus, and the logarithm of the decay rates."""
    return undecayed(initial_steps(heads)), undecayed(torch.empty(heads).uniform_(*_RATES).log())


def _parts(xBC: Tensor, inner: int, heads: int, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split (batch, length, inner + 2 groups states) into x (..., heads, head_dim) and B and C (..., groups, states)."""
    x, BC = xBC[..., :inner], xBC[..., inner:]
    B, C = torch.unflatten(BC, -1, (2 * groups, -1)).chunk(2, dim=-2)
    return torch.unflatten(x, -1, (heads, -1)), B, C
