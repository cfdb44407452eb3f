"""Transposed convolution by PyTorch: any device, any dtype, under autocast, too."""

from torch import Tensor
from torch.nn import functional as F

_FUNCTIONS = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def conv_transpose(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve the channels-last view."""
    kernel = list(weight.shape[2:])
    return _FUNCTIONS[x.ndim - 2](x.movedim(-1, 1), weight, bias, stride=kernel).movedim(1, -1).contiguous()
