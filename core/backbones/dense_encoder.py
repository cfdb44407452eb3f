"""A token for each pixel, from an encoder whose tokens are patches."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .token_encoder import Encoder


class DenseEncoder(nn.Module):
    """Run an encoder on windows of an image, at every offset of its patches: a token for each pixel.

    An image is cut into windows of a fixed number of tokens, and each is encoded by itself. A token belongs to the pixels in the
    middle of its patch, ``stride`` on a side; the others get theirs from the same image moved by multiples of ``stride``. So the
    result is as sharp as the image, at (patch / stride)**2 times the cost, without anything to be trained.

    What a pixel's token depends on is finite and known: where a tile starts at multiples of ``window``, it gives exactly what the
    whole image gives, at every pixel with at least ``receptive_field`` pixels between it and the edges at which the tile was cut.
    Beyond its edges an image goes on with zeros.

    Args:
        encoder: a module.
        context: tokens on a side of a window.
        stride: pixels on a side that share a token, a divisor of the patch.

    Raises:
        ValueError: for a context below 1 or another stride.
    """

    def __init__(self, encoder: Encoder, *, context: int, stride: int = 1) -> None:
        super().__init__()
        assert isinstance(encoder, nn.Module)
        if context < 1 or stride < 1 or encoder.patch % stride:
            raise ValueError(
                f"DenseEncoder: context {context}, stride {stride}: expected 1 or more, a divisor of {encoder.patch}, the patch"
            )
        self.encoder: Encoder = encoder
        self.dim, self.context, self.stride = encoder.dim, context, stride

    @property
    def window(self) -> int:
        """Period of the windows in pixels."""
        return self.context * self.encoder.patch

    @property
    def receptive_field(self) -> int:
        """Reach in pixels on each side."""
        margin = (self.encoder.patch - self.stride) // 2  # of a patch, before the pixels that its token belongs to
        return max((self.context - 1) * self.encoder.patch + margin + self.stride - 1, self.window - 1 - margin)

    def forward(self, x: Tensor, wavelengths: Tensor, gsd: float | Tensor) -> Tensor:
        """Map (batch, bands, height, width) to (batch, height, width, dim); wavelengths and gsd as in ``Tokenizer``."""
        height, width = x.shape[2:]
        steps = range(0, self.encoder.patch, self.stride)
        rows = [torch.stack([self._tokens(x, wavelengths, gsd, i, j) for j in steps], dim=3) for i in steps]
        y = torch.stack(rows, dim=2)  # (batch, rows, row step, columns, column step, dim)
        y = y.flatten(3, 4).flatten(1, 2)
        if self.stride > 1:
            y = y.repeat_interleave(self.stride, 1).repeat_interleave(self.stride, 2)
        return y[:, :height, :width]

    def _tokens(self, x: Tensor, wavelengths: Tensor, gsd: float | Tensor, down: int, across: int) -> Tensor:
        """Return the tokens (batch, rows, columns, dim) of patches moved by some pixels."""
        margin, side = (self.encoder.patch - self.stride) // 2, self.window
        padding = []
        for size, step in ((x.shape[3], across), (x.shape[2], down)):
            before = margin - step
            padding += [before, -(-size // side) * side - size - before]
        x = F.pad(x, padding)
        count = x.shape[2] // side, x.shape[3] // side
        windows = x.reshape(*x.shape[:2], count[0], side, count[1], side).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
        pitch = (
            torch.as_tensor(gsd, dtype=torch.float32, device=x.device).expand(x.shape[0]).repeat_interleave(count[0] * count[1])
        )
        y = self.encoder(windows, wavelengths, pitch).places()
        return y.reshape(x.shape[0], *count, *y.shape[1:]).transpose(2, 3).flatten(3, 4).flatten(1, 2)
