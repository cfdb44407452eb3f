"""Convolution by PyTorch, which takes channels-last images as they lie: any device, any dtype, under autocast, too."""

from torch import Tensor
from torch.nn import functional as F

from .._activation import Activation, activate
from .._backends import exporting
from ..linear import linear
from .volume import LEAST_POSITIONS

_FUNCTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def conv(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation, slope: float) -> Tensor:
    """Convolve, then apply the activation."""
    if x.ndim == 5 and x.device.type == "cpu" and not exporting() and 0 < x.shape[:-1].numel() < LEAST_POSITIONS:
        return _of_few(x, weight, bias, activation, slope)
    y = _FUNCTIONS[x.ndim - 2](x.movedim(-1, 1), weight, bias, padding=[k // 2 for k in weight.shape[2:]])
    return activate(y.movedim(1, -1).contiguous(), activation, slope)


def _of_few(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation, slope: float) -> Tensor:
    # One matrix product with the kernel as it lies, which is larger here than the volume: reading it is most of the time.
    # Besides, oneDNN's gradient of a kernel in bfloat16 is not the same each time on volumes of 2 x 2 x 2.
    kernel = weight.shape[2:]
    rows = F.pad(x, (0, 0, *(k // 2 for k in reversed(kernel) for _ in range(2))))
    for axis, k in enumerate(kernel, start=1):
        rows = rows.unfold(axis, k, 1)
    return linear(rows.flatten(-4), weight.flatten(1), bias, activation=activation, slope=slope)
