"""Tokens of co-registered images exchanged between the sensors' streams.

Source: Sumbul et al. 2025 (SMARTIES), section 3.3.
"""

from collections.abc import Sequence

from torch import Tensor

from ....core.layers.tokenizers import Tokens
from .masking import Generators, choose, noise


def check_mixable(streams: Sequence[Tokens]) -> None:
    """Check that places of one stream are places of the other.

    Raises:
        ValueError: other numbers of images or tokens, another pitch, or tokens that stand for single bands.
    """
    first = streams[0]
    for other in streams[1:]:
        if first.x.shape[1] != 1 or other.x.shape[1] != 1:
            counts = f"{first.x.shape[1]} and {other.x.shape[1]}"
            raise ValueError(f"mixing sensors: tokens must join all bands, these images have {counts} for each place")
        sizes = [f"{len(t.x)} images of {t.x.shape[2]} x {t.x.shape[3]} tokens" for t in (first, other)]
        if sizes[0] != sizes[1]:
            raise ValueError(f"mixing sensors: {sizes[0]} do not fit {sizes[1]}")
        if not bool(((first.pitch - other.pitch).abs() <= 1e-3 * first.pitch).all()):
            pitches = f"{float(first.pitch[0]):g} and {float(other.pitch[0]):g} m"
            raise ValueError(f"mixing sensors: tokens must be as far apart in all images, these are {pitches}")


def draw_swapped(tokens: Tokens, share: float, generator: Generators) -> Tensor:
    """Choose the places that change streams: bool (batch, rows, columns), as many in each image."""
    batch, _, rows, columns = tokens.x.shape[:4]
    drawn = noise(batch, rows * columns, generator, tokens.x.device)
    everywhere = drawn >= 0
    return choose(drawn, everywhere, round(share * rows * columns)).reshape(batch, rows, columns)


def exchange(first: Tensor, second: Tensor, swapped: Tensor) -> tuple[Tensor, Tensor]:
    """Exchange the values of two streams at some places; done twice, it is undone.

    Both streams are mixed, each with the other as it was: the published program builds the second from the first that it has
    mixed already, which leaves the second as it was (see ``SmartiesAutoencoder``).

    Args:
        first, second: of one shape, which starts as that of ``swapped``.
        swapped: bool.
    """
    swapped = swapped.reshape(*swapped.shape, *(1,) * (first.ndim - swapped.ndim))
    return second.where(swapped, first), first.where(swapped, second)
