"""Which of the bands that a tokeniser knows an image has."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .bands import RADAR, check_bands


def check_known(name: str, known: Sequence[float]) -> None:
    """Check the bands that a tokeniser is made for.

    Raises:
        ValueError: a value that is neither in nm nor a code of ``RADAR``, or twice the same.
    """
    check_bands(torch.tensor(known), len(known))
    if len(set(known)) < len(known):
        raise ValueError(f"{name}: bands {', '.join(f'{k:g}' for k in known)} are not all different")


def match_bands(
    name: str, wavelengths: Tensor, known: Sequence[float], *, tolerance: float, drop: bool = False
) -> dict[int, int]:
    """Return which band of the image each known band is, by their indices: known to image.

    An optical band is the known one that is nearest, a radar band the one of its polarisation.

    Args:
        name: of who asks, for errors.
        wavelengths: (bands,) of the image, nm or codes of ``RADAR``.
        known: the same of those that are known.
        tolerance: nm between the two.
        drop: whether bands of the image may be none of the known ones.

    Raises:
        ValueError: a band of the image is none of the known ones, or two are the same.
    """
    names = {code: pol for pol, code in RADAR.items()}
    found: dict[int, int] = {}
    for band, wavelength in enumerate(wavelengths.tolist()):
        index = min(range(len(known)), key=lambda i: abs(known[i] - wavelength))
        told = names.get(wavelength, f"{wavelength:g} nm")
        if abs(known[index] - wavelength) > (tolerance if wavelength > 0 else 0):
            if drop:
                continue
            allowed = ", ".join(names.get(k, f"{k:g}") for k in known)
            raise ValueError(f"{name}: band {told} is none of those that it was made for ({allowed}; within {tolerance:g} nm)")
        if index in found:
            raise ValueError(f"{name}: band {told} and another one are both nearest to {known[index]:g} of those known")
        found[index] = band
    return found
