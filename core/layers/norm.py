"""Norms: over the channels of a token, or over the tokens of an image for each channel."""

from collections.abc import Callable
from functools import reduce
from typing import Literal

import torch
from torch import Tensor, nn

from ..ops.instance_norm_act import Activation, instance_norm_act
from ..ops.layer_norm_residual import layer_norm_residual

NormKind = Literal["layer", "rms"] | Callable[[int], nn.Module]


def make_norm(kind: NormKind, dim: int) -> nn.Module:
    """Return a norm over the last axis of (..., dim): "layer" (Ba et al. 2016), "rms" (Zhang and Sennrich 2019) or a factory's.

    A factory is called with ``dim``, such as ``partial(nn.LayerNorm, eps=1e-6)``. The named norms are PyTorch's own: they take
    the statistics of a 16-bit input in float32 (tested here, since all else relies on it).
    """
    if callable(kind):
        return kind(dim)
    if kind == "layer":
        return nn.LayerNorm(dim)
    if kind == "rms":
        return nn.RMSNorm(dim, eps=1e-6)
    raise ValueError(f"norm is {kind!r}, expected 'layer' or 'rms'")


def norm_residual(norm: nn.Module, x: Tensor, branch: Tensor, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return s = x + scale * branch and norm(s), fused if the norm is PyTorch's layer or RMS norm over the last axis.

    As in PyTorch, s has the type that x, branch and scale have together.
    """
    given = [t for t in (x, branch, scale) if t is not None]
    dtype = reduce(torch.promote_types, (t.dtype for t in given))
    x, branch = x.to(dtype), branch.to(dtype)
    # Hooks and subclasses may do more than the op; they get what they would have got.
    hooked = norm._forward_hooks or norm._forward_pre_hooks or norm._backward_hooks  # noqa: SLF001 - torch has no public question
    plain = type(norm) in (nn.LayerNorm, nn.RMSNorm) and not hooked
    if not plain or not isinstance(norm, nn.LayerNorm | nn.RMSNorm) or norm.normalized_shape != x.shape[-1:]:
        s = x + (branch if scale is None else branch * scale)
        return s, norm(s)
    bias = norm.bias if isinstance(norm, nn.LayerNorm) else None
    # RMSNorm without a number takes that of the dtype, as torch does.
    eps = torch.finfo(dtype).eps if norm.eps is None else norm.eps
    return layer_norm_residual(x, branch, norm.weight, bias, scale=scale, rms=isinstance(norm, nn.RMSNorm), eps=eps)


class DeviationNorm(nn.Module):
    """Divide the channels of a token by their standard deviation, without taking their mean off: (..., dim) to the same shape.

    x / sqrt(var(x) + eps) * weight. It is the bias-free layer norm of Restormer (Zamir et al. 2022), with which a network without
    other biases denoises alike at every level of noise (Mohan et al. 2020, section 4).

    Args:
        dim: channels.
        eps: added to the variance.
    """

    def __init__(self, dim: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        variance = x.to(dtype).var(-1, correction=0, keepdim=True)
        return x * (variance + self.eps).rsqrt().to(x.dtype) * self.weight


class InstanceNormAct(nn.Module):
    """Instance norm, residual and activation of channels-last images: act(norm(x) + residual).

    Source: Ulyanov et al. 2016; in this order at the end of MONAI's ``UnetResBlock``, without residual in its ``UnetBasicBlock``.

    Args:
        dim: channels.
        affine: whether each channel has a learned weight and bias.
        activation: none, relu, leaky_relu, gelu or silu.
        slope: of the negative side of leaky_relu.
        eps: added to the variance.
    """

    def __init__(
        self, dim: int, *, affine: bool = False, activation: Activation = "none", slope: float = 0.01, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim)) if affine else None
        self.bias = nn.Parameter(torch.zeros(dim)) if affine else None
        self.activation, self.slope, self.eps = activation, slope, eps

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Map (batch, *size, dim), and a residual like it, to the same shape."""
        return instance_norm_act(
            x,
            self.weight,
            self.bias,
            residual=residual,
            activation=self.activation,
            slope=self.slope,
            eps=self.eps,
        )
