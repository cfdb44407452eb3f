"""What every tokeniser takes and gives."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokens of a batch of images, on a grid of bands and space.

    Args:
        x: (batch, spectral, rows, columns, dim). A tokeniser that joins all bands has one spectral token.
        wavelengths: (spectral,), nm or code of ``RADAR`` of each spectral token; None where a token joins bands of any kind.
        pitch: (batch,), metres from a token to the next.
        present: (batch, spectral), whether there was a band for the token; None: everywhere.
        owner: (bands,), the index of the (first) spectral token that each band of the image is in, -1 for none; None: where a
            token joins all bands, or each band has its own, in order.
    """

    x: Tensor
    wavelengths: Tensor | None
    pitch: Tensor
    present: Tensor | None = None
    owner: Tensor | None = None


@runtime_checkable
class Tokenizer(Protocol):
    """A module that makes tokens of images of any bands.

    ``patch`` is the side of a token in pixels, ``dim`` the channels of a token.
    """

    patch: int
    dim: int

    def __call__(self, x: Tensor, wavelengths: Tensor, gsd: float | Tensor, band_mask: Tensor | None = None) -> Tokens:
        """Make tokens.

        Args:
            x: (batch, bands, height, width), sides in multiples of ``patch``; finite: what is no data is 0.
            wavelengths: (bands,), nm or a code of ``RADAR``.
            gsd: metres on the ground from a pixel to the next; one number or (batch,).
            band_mask: bool (batch, bands), False for a band that an image lacks; its values are not looked at.

        Raises:
            ValueError: a band that is not known, or a size that is no multiple of the patch.
        """
        ...
