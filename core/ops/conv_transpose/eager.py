"""Transposed convolution by PyTorch: any device, any dtype, under autocast, too."""

from torch import Tensor
from torch.nn import functional as F

from .._backends import exporting

_FUNCTIONS = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
FEW = 65  # positions of all images together; below, one product with the kernel as it lies is faster than the compiled kernel


def conv_transpose(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve the channels-last view."""
    kernel = list(weight.shape[2:])
    if x.device.type == "cpu" and not exporting() and x.shape[:-1].numel() < FEW:
        return _of_few(x, weight, bias)
    return _FUNCTIONS[x.ndim - 2](x.movedim(-1, 1), weight, bias, stride=kernel).movedim(1, -1).contiguous()


def _of_few(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    batch, *size, _ = x.shape
    kernel, axes = weight.shape[2:], len(size)
    parts = (x @ weight.flatten(1)).view(batch, *size, weight.shape[1], *kernel)
    y = parts.movedim(1 + axes, -1)  # (batch, *size, *kernel, out)
    y = y.permute(0, *(a for axis in range(1, 1 + axes) for a in (axis, axis + axes)), 1 + 2 * axes)
    y = y.reshape(batch, *(s * k for s, k in zip(size, kernel, strict=True)), weight.shape[1]).contiguous()
    return y if bias is None else y + bias.to(y.dtype)
