"""Depthwise convolution with bias and activation by calls of PyTorch: any device, any floating dtype."""

from torch import Tensor
from torch.nn import functional as F

from ...device import without_autocast
from .._activation import Activation, activate
from . import reference


def depthwise_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, before: tuple[int, ...], activation: Activation, slope: float
) -> Tensor:
    """Convolve the (batch, channels, *size) view of x, padded at the start for outputs that see ``before`` inputs before them."""
    if x.numel() == 0:  # torch refuses an empty axis
        return reference.depthwise_conv(x, weight, bias, before, activation, slope)
    weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    size, kernel = x.shape[1:-1], weight.shape[2:]
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(size)]
    # conv pads both sides alike: pad by the larger side, then cut to the length of x.
    padding = [max(b, k - 1 - b) for b, k in zip(before, kernel, strict=True)]
    # Autocast must not choose another dtype than that of x.
    with without_autocast(x.device):
        y: Tensor = convolve(x.movedim(-1, 1), weight, bias, padding=padding, groups=x.shape[-1])
    for axis, (b, p, n) in enumerate(zip(before, padding, size, strict=True), start=2):
        y = y.narrow(axis, p - b, n)
    return activate(y.movedim(1, -1), activation, slope)
