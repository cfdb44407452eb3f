"""The affine map of a linear layer in one call of PyTorch: any device, any dtype, under autocast, too."""

from torch import Tensor
from torch.nn import functional as F

from .._activation import Activation, activate


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation, slope: float) -> Tensor:
    """Compute activation(x W^T + b)."""
    return activate(F.linear(x, weight, bias), activation, slope)
