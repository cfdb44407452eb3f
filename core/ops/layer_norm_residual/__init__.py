"""Residual, layer scale and the norm that follows, fused."""

from torch import Tensor

from .._backends import Backend, check_floating, check_like, check_parameters, choose_backend, resolve_backend
from . import eager, native, reference

__all__ = ["Backend", "choose_backend", "layer_norm_residual"]


def layer_norm_residual(
    x: Tensor,
    branch: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    scale: Tensor | None = None,
    rms: bool = False,
    eps: float = 1e-5,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """Compute s = x + scale * branch and y = norm(s) * weight + bias, as between the branches of a pre-norm block.

    Sources: Ba et al. 2016 (layer norm), equation 3; Zhang and Sennrich 2019 (RMS norm), equation 4; Touvron et al. 2021 (layer
    scale), equation 4.

    Args:
        x, branch: floating tensors (..., channels) of one shape, dtype and device; any strides.
        weight, bias, scale: (channels,) or None, in any floating dtype.
        rms: divide by the root mean square instead of taking the mean off and dividing by the deviation.
        eps: added to the variance or the mean square.
        backend: ``auto`` takes the compiled kernel where it exists for these tensors. The result differs by rounding only.

    Returns:
        s and y, tensors like x, under autocast, too. Of the backends only ``native`` cannot be differentiated twice.

    Raises:
        ValueError: if the tensors do not match, are not floating or have no channels, or ``native`` cannot serve them.
    """
    op = "layer_norm_residual"
    check_floating(op, x, 1)
    check_like(op, x, branch=branch)
    check_parameters(op, x, (x.shape[-1],), weight=weight, bias=bias, scale=scale)
    if x.shape[-1] == 0:
        raise ValueError(f"{op}: x has no channels, its shape is {list(x.shape)}")
    functions = {
        "reference": reference.layer_norm_residual,
        "eager": eager.layer_norm_residual,
        "native": native.layer_norm_residual,
    }
    return functions[resolve_backend(op, backend, x)](x, branch, scale, weight, bias, eps, rms)
