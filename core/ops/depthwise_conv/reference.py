"""Depthwise convolution with bias and activation: the readable truth that every backend is compared with."""

import itertools

import torch
from torch import Tensor
from torch.nn import functional as F

from .._activation import Activation, activate


def depthwise_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, before: tuple[int, ...], activation: Activation, slope: float
) -> Tensor:
    """Add up the shifted images, one for each tap of the kernel, in at least float32 and rounded once.

    ``before`` tells for each axis how many inputs before its own place an output sees.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    size, kernel = x.shape[1:-1], weight.shape[2:]
    # F.pad counts from the last axis, and the channels are not padded.
    borders = [(b, k - 1 - b) for b, k in zip(before, kernel, strict=True)]
    padded = F.pad(x.to(dtype), [0, 0, *(n for border in reversed(borders) for n in border)])
    y = torch.zeros_like(x, dtype=dtype) if bias is None else bias.to(dtype).expand(x.shape)
    for index, tap in enumerate(itertools.product(*map(range, kernel))):
        shifted = padded
        for axis, (start, length) in enumerate(zip(tap, size, strict=True), start=1):
            shifted = shifted.narrow(axis, start, length)
        y = y + shifted * weight.flatten(1)[:, index].to(dtype)
    return activate(y, activation, slope).to(x.dtype)
