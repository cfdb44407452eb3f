"""The affine map of a linear layer in one call of PyTorch: any device, any dtype, under autocast, too.

Shapes: R rows (tokens of all samples), I channels in, O channels out.
"""

from torch import Tensor
from torch.nn import functional as F

from .._activation import Activation, activate


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation, slope: float) -> Tensor:
    """Compute activation(x W^T + b)."""
    return activate(F.linear(x, weight, bias), activation, slope)


def weight_gradient(grad_RO: Tensor, x_RI: Tensor) -> Tensor:
    """Compute G^T X."""
    return grad_RO.t() @ x_RI
