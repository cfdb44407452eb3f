"""PSNR and SSIM, digit for digit as BasicSR's ``calculate_psnr`` and ``calculate_ssim``, by which papers report them.

Both compare images as they are saved: rounded to 0..255 (``to_uint8``). A border, by custom as wide as the scale factor, is cut
off first. Either the luma is compared, or all channels.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_LUMA = np.array([65.481, 128.553, 24.966])  # ITU-R BT.601, of R, G, B in 0..1, to 16..235
_WINDOW = 11
_SIGMA = 1.5


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8], *, crop: int, luma: bool) -> float:
    """Return the peak signal-to-noise ratio in dB: 10 log10(255^2 / mean square of all differences), infinite for equal images.

    Args:
        a, b: (H, W, C), the channels in the order R, G, B.
        crop: pixels that are left out at each edge.
        luma: compare ``y_channel``; a single channel is compared as it is.

    Raises:
        ValueError: for images of different shapes, another dtype, or a crop that is negative or leaves nothing.
    """
    first, second = _prepared(a, b, crop=crop, luma=luma, least=1)
    error = float(np.mean(np.square(first - second)))
    return float(10 * np.log10(255.0**2 / error)) if error else float("inf")


def ssim(a: NDArray[np.uint8], b: NDArray[np.uint8], *, crop: int, luma: bool) -> float:
    """Return the structural similarity (Wang et al. 2004, IEEE TIP 13:600), the mean over pixels and channels.

    With their constants, a Gaussian window of 11 x 11 and standard deviation 1.5, and only where it lies in the image.
    Arguments and errors as ``psnr``; 11 x 11 pixels must be left.
    """
    first, second = _prepared(a, b, crop=crop, luma=luma, least=_WINDOW)
    return float(np.mean([_ssim_of_plane(first[..., i], second[..., i]) for i in range(first.shape[2])]))


def y_channel(image_HWC: NDArray[Any]) -> NDArray[np.float32]:
    """Return the luma (H, W, 1) in 16..235 of an RGB image in 0..255; any other number of channels is returned as it is.

    In float32 and not rounded, through the same steps as BasicSR's ``to_y_channel``.
    """
    unit_HWC = image_HWC.astype(np.float32) / np.float32(255)
    if unit_HWC.shape[2] == 3:
        # Channel by channel: sums of products of matrices depend on the machine in their last bit, and BasicSR's has float64.
        y_HW = sum(unit_HWC[..., i].astype(np.float64) * weight for i, weight in enumerate(_LUMA)) + 16.0
        unit_HWC = (y_HW / 255.0).astype(np.float32)[..., None]
    return unit_HWC * np.float32(255)


def to_uint8(image_HWC: NDArray[Any]) -> NDArray[np.uint8]:
    """Round an image with values of 0..1 to 0..255 as it is saved, a half to the even neighbour (BasicSR's ``tensor2img``)."""
    return (image_HWC.clip(0, 1) * 255).round().astype(np.uint8)


def _prepared(
    a: NDArray[np.uint8], b: NDArray[np.uint8], *, crop: int, luma: bool, least: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if a.shape != b.shape or a.ndim != 3:
        raise ValueError(f"images of shapes {list(a.shape)} and {list(b.shape)}: expected one (height, width, channels)")
    if a.dtype != np.uint8 or b.dtype != np.uint8:
        raise ValueError(f"images of dtypes {a.dtype} and {b.dtype}: expected uint8, as they are saved")
    height, width = a.shape[:2]
    if crop < 0 or min(height, width) - 2 * crop < least:
        raise ValueError(f"{height} x {width} pixels with {crop} cut off at each edge: {least} x {least} must be left")
    inner = (slice(crop, height - crop), slice(crop, width - crop))
    both = a[inner], b[inner]
    first, second = (y_channel(image) if luma else image for image in both)
    return first.astype(np.float64), second.astype(np.float64)


def _ssim_of_plane(a_HW: NDArray[np.float64], b_HW: NDArray[np.float64]) -> float:
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_a, mean_b = _blurred(a_HW), _blurred(b_HW)
    variances = _blurred(a_HW * a_HW) - mean_a * mean_a + _blurred(b_HW * b_HW) - mean_b * mean_b
    covariance = _blurred(a_HW * b_HW) - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return float(np.mean(likeness / ((mean_a * mean_a + mean_b * mean_b + c1) * (variances + c2))))


def _blurred(x_HW: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian means of the windows that lie in the image: (H - 10, W - 10)."""
    weights = np.exp(-np.square(np.arange(_WINDOW) - _WINDOW // 2) / (2 * _SIGMA**2))
    weights /= weights.sum()
    for _ in range(2):
        rows = x_HW.shape[0] - _WINDOW + 1
        blurred = np.zeros((rows, x_HW.shape[1]))
        for offset, weight in enumerate(weights):
            blurred += weight * x_HW[offset : offset + rows]
        x_HW = np.ascontiguousarray(blurred.T)
    return x_HW
