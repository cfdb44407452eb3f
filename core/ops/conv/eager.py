"""Convolution by PyTorch, which takes channels-last images as they lie: any device, any dtype, under autocast, too."""

from torch import Tensor
from torch.nn import functional as F

from .._activation import Activation, activate

_FUNCTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def conv(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation, slope: float) -> Tensor:
    """Convolve, then apply the activation."""
    y = _FUNCTIONS[x.ndim - 2](x.movedim(-1, 1), weight, bias, padding=[k // 2 for k in weight.shape[2:]])
    return activate(y.movedim(1, -1).contiguous(), activation, slope)
