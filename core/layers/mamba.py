"""Mamba for sequences, in one direction and in two.

Shapes: B batch, L steps, C channels, D inner channels, N states, W kernel of the convolution.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops.linear import linear
from ..ops.selective_scan import Backend, selective_scan
from ..ops.swiglu import swiglu
from .conv import DepthwiseConv
from .linear import Linear
from .ssm import decay, default_rank, initial_rates, orders_on, recurrence_step, step_projection, undecayed


class MambaState(NamedTuple):
    """All that a ``Mamba`` keeps of the steps behind it, the same amount whatever their number.

    conv: the last inputs of the convolution, the latest last, (B, D, W).
    ssm: the state of the recurrence, in at least float32, (B, D, N).
    """

    conv: Tensor
    ssm: Tensor


class Mamba(nn.Module):
    """A gated state-space mixer: every step sees those before it.

    x, z = split(in_proj(input)); u = silu(causal convolution of x); dt, B, C = x_proj(u);
    output = out_proj(silu(z) * selective_scan(u, dt_proj(dt), A, B, C)).

    Source: Gu and Dao 2023, section 3.4 and figure 3. Parameters have the names of the authors' ``mamba_ssm``, so that its
    checkpoints load as they are. In 16 bit, the state and the decay still are float32.

    Args:
        dim: channels in and out.
        state: N, states of each inner channel.
        kernel: W, steps that the convolution sees.
        expand: inner channels for each channel.
        rank: of the projection to the step sizes. Default: ``dim / 16``, rounded up.
        bias: whether the projections into and out of the layer have a bias.
        conv_bias: whether the convolution has one.
        backend: of ``selective_scan``.
    """

    def __init__(
        self,
        dim: int,
        *,
        state: int = 16,
        kernel: int = 4,
        expand: float = 2.0,
        rank: int | None = None,
        bias: bool = False,
        conv_bias: bool = True,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        inner, rank = int(expand * dim), default_rank(dim) if rank is None else rank
        self.backend = backend
        self.in_proj = Linear(dim, 2 * inner, bias=bias)
        self.conv1d = DepthwiseConv(inner, (kernel,), bias=conv_bias, sees="before", activation="silu")
        self.x_proj = Linear(inner, rank + 2 * state, bias=False)
        self.dt_proj = step_projection(rank, inner)
        self.A_log = undecayed(initial_rates(inner, state))
        self.D = undecayed(torch.ones(inner))
        self.out_proj = Linear(inner, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, *S, C) to the same shape; several spatial axes are read in row-major order."""
        x_BLD, z_BLD = self.in_proj(x.flatten(1, -2)).chunk(2, dim=-1)
        y: Tensor = self.out_proj(self._scan(x_BLD, z_BLD)[0])
        return y.reshape(x.shape)

    def prefill(self, x_BLC: Tensor) -> tuple[Tensor, MambaState]:
        """Return the output (B, L, C) for a whole sequence, and the state from which ``step`` goes on."""
        x_BLD, z_BLD = self.in_proj(x_BLC).chunk(2, dim=-1)
        y_BLD, ssm_BDN = self._scan(x_BLD, z_BLD)
        conv_BDW = F.pad(x_BLD.mT, (self.conv1d.weight.shape[-1] - x_BLD.shape[1], 0))  # a negative padding cuts
        return self.out_proj(y_BLD), MambaState(conv_BDW, ssm_BDN)

    def initial_state(self, batch: int) -> MambaState:
        """Return the state before the first step."""
        weight_DW, A_DN = self.conv1d.weight[:, 0], decay(self.A_log)
        return MambaState(weight_DW.new_zeros(batch, *weight_DW.shape), A_DN.new_zeros(batch, *A_DN.shape))

    def step(self, x_BC: Tensor, state: MambaState) -> tuple[Tensor, MambaState]:
        """Map one step (B, C) to its output (B, C) and the next state; the given state is left as it is."""
        x_BD, z_BD = self.in_proj(x_BC).chunk(2, dim=-1)
        conv_BDW = torch.cat([state.conv[..., 1:], x_BD[..., None].to(state.conv.dtype)], dim=-1)
        u_BD = (conv_BDW * self.conv1d.weight[:, 0]).sum(-1)
        u_BD = F.silu(u_BD if self.conv1d.bias is None else u_BD + self.conv1d.bias)
        dt_BD, B_BN, C_BN = _steps(u_BD, self.x_proj, self.dt_proj)
        y_BD, ssm_BDN = recurrence_step(
            state.ssm, u_BD, dt_BD, decay(self.A_log), B_BN, C_BN, D_D=self.D, dt_bias_D=self.dt_proj.bias
        )
        return self.out_proj(y_BD * F.silu(z_BD)), MambaState(conv_BDW, ssm_BDN)

    def _scan(self, x_BLD: Tensor, z_BLD: Tensor) -> tuple[Tensor, Tensor]:
        u_BLD = self.conv1d(x_BLD)
        dt_BLD, B_BLN, C_BLN = _steps(u_BLD, self.x_proj, self.dt_proj)
        y_BLD, h_BDN = selective_scan(
            u_BLD,
            dt_BLD,
            decay(self.A_log),
            B_BLN,
            C_BLN,
            D=self.D,
            z=z_BLD,
            dt_bias=self.dt_proj.bias,
            softplus=True,
            return_state=True,
            backend=self.backend,
        )
        return y_BLD, h_BDN


class BiMamba(nn.Module):
    """Mamba in both directions at once: every step sees all others.

    The two scans share the gate and the projections into and out of the layer. Source: Zhu et al. 2024 (Vision Mamba),
    algorithm 1. Parameters have the names of its code, where "_b" marks those of the backward direction.

    Args:
        dim, state, kernel, expand, rank, bias, conv_bias, backend: as in ``Mamba``.
        tied: whether the backward direction takes all but its rates A from the forward one, the output of the causal
            convolution too ("v1" in Vision Mamba's code). Default: it has its own ("v2").
        average: whether the output is the mean of both directions instead of their sum.
    """

    def __init__(
        self,
        dim: int,
        *,
        state: int = 16,
        kernel: int = 4,
        expand: float = 2.0,
        rank: int | None = None,
        bias: bool = False,
        conv_bias: bool = True,
        tied: bool = False,
        average: bool = False,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        inner, rank = int(expand * dim), default_rank(dim) if rank is None else rank
        self.tied, self.average, self.backend = tied, average, backend
        self.in_proj = Linear(dim, 2 * inner, bias=bias)
        self.conv1d = DepthwiseConv(inner, (kernel,), bias=conv_bias, sees="before", activation="silu")
        self.x_proj = Linear(inner, rank + 2 * state, bias=False)
        self.dt_proj = step_projection(rank, inner)
        self.A_log, self.A_b_log = (undecayed(initial_rates(inner, state)) for _ in range(2))
        self.D = undecayed(torch.ones(inner))
        if not tied:
            self.conv1d_b = DepthwiseConv(inner, (kernel,), bias=conv_bias, sees="after", activation="silu")
            self.x_proj_b = Linear(inner, rank + 2 * state, bias=False)
            self.dt_proj_b = step_projection(rank, inner)
            self.D_b = undecayed(torch.ones(inner))
        self.out_proj = Linear(inner, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, *S, C) to the same shape; several spatial axes are read in row-major order, forward and backward."""
        x_BLD, z_BLD = self.in_proj(x.flatten(1, -2)).chunk(2, dim=-1)
        u_BLD = self.conv1d(x_BLD)
        projected = _steps(u_BLD, self.x_proj, self.dt_proj)
        y_BLD = self._scan("raster", u_BLD, projected, self.A_log, self.D, self.dt_proj.bias)
        if self.tied:
            y_BLD = y_BLD + self._scan("reverse", u_BLD, projected, self.A_b_log, self.D, self.dt_proj.bias)
        else:
            u_BLD = self.conv1d_b(x_BLD)
            projected = _steps(u_BLD, self.x_proj_b, self.dt_proj_b)
            y_BLD = y_BLD + self._scan("reverse", u_BLD, projected, self.A_b_log, self.D_b, self.dt_proj_b.bias)
        y: Tensor = self.out_proj(swiglu(z_BLD, 0.5 * y_BLD if self.average else y_BLD))
        return y.reshape(x.shape)

    def _scan(
        self, route: str, u_BLD: Tensor, projected: tuple[Tensor, Tensor, Tensor], A_log: Tensor, D: Tensor, dt_bias: Tensor
    ) -> Tensor:
        """Scan in one direction, as one route of the op: positions stay where they are, nothing is turned round."""
        dt_BLKD, B_BLKN, C_BLKN = (t.unsqueeze(2) for t in projected)
        y_BLD = selective_scan(
            u_BLD,
            dt_BLKD,
            decay(A_log)[None],
            B_BLKN,
            C_BLKN,
            D=D[None],
            dt_bias=dt_bias[None],
            softplus=True,
            orders=orders_on(u_BLD.device, (u_BLD.shape[1],), (route,)),
            backend=self.backend,
        )
        assert isinstance(y_BLD, Tensor)  # no state was asked for
        return y_BLD


def _steps(u: Tensor, x_proj: nn.Linear, dt_proj: nn.Linear) -> tuple[Tensor, Tensor, Tensor]:
    """Project (..., D) to step sizes (..., D), still without their bias, which the scan adds, and to B and C (..., N)."""
    rank = dt_proj.in_features
    state = (x_proj.out_features - rank) // 2
    dt, B, C = x_proj(u).split([rank, state, state], dim=-1)
    return linear(dt, dt_proj.weight), B, C
