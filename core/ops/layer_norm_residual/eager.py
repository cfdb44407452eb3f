"""Residual with layer scale and the norm after it by calls of PyTorch: any device, any floating dtype."""

from torch import Tensor
from torch.nn import functional as F

from ...device import without_autocast


def layer_norm_residual(
    x: Tensor, branch: Tensor, scale: Tensor | None, weight: Tensor | None, bias: Tensor | None, eps: float, rms: bool
) -> tuple[Tensor, Tensor]:
    """Compute s = x + scale * branch and its norm over the last axis; in half precision rounded after each step."""
    scale, weight, bias = (None if p is None else p.to(x.dtype) for p in (scale, weight, bias))
    s = x + (branch if scale is None else branch * scale)
    with without_autocast(x.device):  # which must not choose another dtype than that of x
        if not rms:
            return s, F.layer_norm(s, s.shape[-1:], weight, bias, eps)
        y = F.rms_norm(s, s.shape[-1:], weight, eps)
    return s, y if bias is None else y + bias
