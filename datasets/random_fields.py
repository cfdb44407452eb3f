"""Smooth random fields and blurs."""

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float64]


def blur(image: _Array, sigma: float) -> _Array:
    """Gaussian blur over the last two axes, edges reflected."""
    radius = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1.0) / sigma) ** 2)
    kernel /= kernel.sum()
    for axis in (-2, -1):
        pad = [(radius, radius) if i == image.ndim + axis else (0, 0) for i in range(image.ndim)]
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(image, pad, mode="symmetric"), len(kernel), axis=axis)
        image = windows @ kernel
    return image


def field(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> _Array:
    """A smooth random field of mean 0 and standard deviation 1."""
    values = blur(rng.standard_normal(shape), sigma)
    values -= values.mean()
    values /= values.std()
    return values


def rough_field(rng: np.random.Generator, shape: tuple[int, int], slope: float) -> _Array:
    """A random field of mean 0 and standard deviation 1 whose amplitudes fall as frequency ** -slope: relief has about 2."""
    height, width = (2 * side for side in shape)  # the spectrum repeats: what is kept does not touch its own other end
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    spectrum = (rng.normal(size=frequency.shape) + 1j * rng.normal(size=frequency.shape)) * frequency**-slope
    values: _Array = np.fft.irfft2(spectrum, (height, width))[: shape[0], : shape[1]]
    values -= values.mean()
    values /= values.std()
    return values
