"""MATLAB's bicubic imresize, which super-resolution is trained and measured on, for NumPy and torch.

The kernel is Keys' cubic convolution with a = -1/2 (Keys 1981, IEEE Trans. ASSP 29:1153); for shrinking it is widened by the
factor, which keeps out aliases. The image goes on beyond its edges as in a mirror that repeats the edge. Resizers of other
libraries that are called bicubic differ in one of these, by up to 1 dB of a score.
"""

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def matlab_resize(image_HWC: NDArray[Any], scale: float) -> NDArray[Any]:
    """Resize an image to ceil(scale * size) pixels on both axes.

    Args:
        image_HWC: (H, W) or (H, W, C) of uint8, uint16, float32 or float64, of any range.
        scale: output pixels for each input pixel.

    Returns:
        The same dtype. Integers are rounded, half up, and clipped after each axis, as MATLAB does it: the images of
        super-resolution benchmarks come out bit for bit. Floats are neither rounded nor clipped.

    Raises:
        ValueError: for another dtype or number of axes, an empty image, or a scale that is not positive and finite.
    """
    if image_HWC.dtype not in (np.uint8, np.uint16, np.float32, np.float64):
        raise ValueError(f"an image of dtype {image_HWC.dtype}: allowed are uint8, uint16, float32 and float64")
    if image_HWC.ndim not in (2, 3) or not image_HWC.size:
        raise ValueError(f"an image of shape {list(image_HWC.shape)}: expected (height, width) or (height, width, channels)")
    planes_CHW = np.moveaxis(image_HWC.reshape(*image_HWC.shape[:2], -1), -1, 0)
    x_BCHW = torch.from_numpy(planes_CHW.astype(np.float64))[None]
    if image_HWC.dtype.kind == "u":
        y_BCHW = _resize(x_BCHW, scale, np.iinfo(image_HWC.dtype).max)
    else:
        y_BCHW = matlab_resize_tensor(x_BCHW, scale)
    resized_HWC = np.moveaxis(y_BCHW[0].numpy(), 0, -1).astype(image_HWC.dtype, order="C")
    return resized_HWC.reshape(*resized_HWC.shape[:2], *image_HWC.shape[2:])


def matlab_resize_tensor(x_BCHW: Tensor, scale: float) -> Tensor:
    """Resize images to ceil(scale * size) pixels on both axes; gradients pass.

    Args:
        x_BCHW: floating-point images of any range; below float32 they are resized in float32.
        scale: output pixels for each input pixel.

    Returns:
        The same dtype, neither rounded nor clipped.

    Raises:
        ValueError: if it is not (batch, channels, height, width) of floats, is empty, or for a scale that is not positive and
            finite.
    """
    if x_BCHW.ndim != 4 or not x_BCHW.is_floating_point() or 0 in x_BCHW.shape:
        given = f"{str(x_BCHW.dtype).removeprefix('torch.')} of shape {list(x_BCHW.shape)}"
        raise ValueError(f"x is {given}: expected floats of (batch, channels, height, width), none of them 0")
    y_BCHW = x_BCHW if x_BCHW.dtype in (torch.float32, torch.float64) else x_BCHW.float()
    return _resize(y_BCHW, scale, None).to(x_BCHW.dtype)


def _resize(x_BCHW: Tensor, scale: float, peak: int | None) -> Tensor:
    """Resize the rows, then the columns, as MATLAB does where both axes have one scale; round to 0..peak after each."""
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale is {scale}: expected a positive number")
    for _ in range(2):
        x_BCHW = _resize_rows(x_BCHW, float(scale))
        if peak is not None:
            # Halves are common at scale 1/2, and the last bit of a sum must not decide about them.
            x_BCHW = x_BCHW.add_(0.5 + 1e-9).floor_().clamp_(0, peak)
        # With the axis to resize before the last, whole rows are gathered, which is several times faster.
        x_BCHW = x_BCHW.transpose(2, 3).contiguous()
    return x_BCHW


def _resize_rows(x_BCHW: Tensor, scale: float) -> Tensor:
    """Resize the second last axis: a sum over gathered neighbours, one at a time, so that memory stays that of the output."""
    index_TN, weights_TN = _taps(x_BCHW.shape[2], scale)
    index_TN, weights_TN = index_TN.to(x_BCHW.device), weights_TN.to(x_BCHW.device, x_BCHW.dtype)
    terms = (x_BCHW.index_select(2, i).mul_(w[:, None]) for i, w in zip(index_TN, weights_TN, strict=True))
    y_BCHW = next(terms)
    for term_BCHW in terms:
        y_BCHW.add_(term_BCHW)
    return y_BCHW


@lru_cache(maxsize=256)
def _taps(size: int, scale: float) -> tuple[Tensor, Tensor]:
    """Return which input pixels each output pixel is made of, and their weights in float64: (taps, outputs) both."""
    narrowing = min(scale, 1.0)
    support = 4.0 / narrowing
    # Where the centres of output pixels lie on the input, whose first pixel has its centre at 0.
    centre_N = (np.arange(math.ceil(size * scale)) + 0.5) / scale - 0.5
    first_N = np.floor(centre_N - support / 2)
    position_TN = first_N + np.arange(math.ceil(support) + 2)[:, None]
    weights_TN = _cubic((centre_N - position_TN) * narrowing)
    weights_TN /= weights_TN.sum(0)
    used = weights_TN.any(1)
    # The image and its mirror image, over and over.
    index_TN = position_TN[used].astype(np.int64) % (2 * size)
    index_TN = np.minimum(index_TN, 2 * size - 1 - index_TN)
    return torch.from_numpy(index_TN), torch.from_numpy(weights_TN[used])


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))
