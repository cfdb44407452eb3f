"""An affine map of every image and channel, the same of what is added, and an activation: norms whose moments are known."""

from typing import NamedTuple

import torch
from torch import Tensor

from .._backends import Backend, Chosen, check_floating, check_like, check_parameters, choose, native_serves, resolve_backend
from . import eager, native, reference

__all__ = ["Affine", "Backend", "affine_act", "choose_backend", "norm_affine"]


class Affine(NamedTuple):
    """x to (x - mean) * factor + offset; each (batch, channels), float32."""

    mean: Tensor
    factor: Tensor
    offset: Tensor


def norm_affine(
    mean: Tensor, variance: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float = 1e-5
) -> Affine:
    """Return the map that an instance norm is, from moments (batch, channels) and its parameters (channels,)."""
    factor = (variance + eps).rsqrt()
    factor = factor if weight is None else factor * weight.float()
    offset = torch.zeros_like(mean) if bias is None else bias.float().expand_as(mean)
    return Affine(mean, factor, offset)


def choose_backend(device: torch.device, dtype: torch.dtype) -> tuple[Chosen, str]:
    """Return what ``backend="auto"`` means for tensors of this device and dtype, and the reason."""
    return choose(device, {"native": native_serves(device, dtype)})


def affine_act(
    x: Tensor,
    affine: Affine,
    residual: Tensor | None = None,
    residual_affine: Affine | None = None,
    *,
    slope: float = 1.0,
    backend: Backend = "auto",
) -> Tensor:
    """Compute u = affine(x) + residual_affine(residual), and u where it is positive, else slope * u.

    Args:
        x: (batch, *size, channels), float32 or bfloat16 for ``native``.
        affine: of x, for each image and channel.
        residual: like x, added; None for none.
        residual_affine: of the residual; None leaves it as it is.
        slope: 1 is no activation, 0.01 PyTorch's leaky_relu, 0 relu.
        backend: ``native`` has no gradient and is for inference; with one, ``auto`` is ``eager``.

    Returns:
        Like x, contiguous, in its dtype.

    Raises:
        ValueError: if shapes, dtypes or devices do not match, or ``native`` cannot serve the tensors.
    """
    op = "affine_act"
    check_floating(op, x, 2)
    check_like(op, x, residual=residual)
    if residual is None and residual_affine is not None:
        raise ValueError(f"{op}: residual_affine is given without a residual")
    maps = [*affine, *(residual_affine or ())]
    for tensor in maps:
        check_parameters(op, x, (x.shape[0], x.shape[-1]), affine=tensor)
    wants = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, residual, *maps))
    if wants and backend == "native":
        raise ValueError(f"{op}: backend 'native' cannot be used: it has no gradient")
    chosen = resolve_backend(op, "eager" if wants and backend == "auto" else backend, x)
    functions = {"reference": reference.affine_act, "eager": eager.affine_act, "native": native.affine_act}
    return functions[chosen](x, affine, residual, residual_affine, slope)
