"""What every restoration network has in common: images in, images out, any size."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn


class Network(nn.Module, ABC):
    """An image-to-image network: (B, in_channels, H, W) with values in 0..1 to (B, out_channels, scale * H, scale * W).

    The image is filled up at its right and lower end to whole ``multiple`` s before ``body``, and the result is cropped.

    A sub-class sets these in its constructor or class:

        scale: output pixels for each input pixel on an axis.
        in_channels, out_channels: of images.
        multiple: ``body`` takes sizes that are multiples of it only; windows and strides start at multiples of it, so that
            tiles cut there see what the whole image sees.
        least: pixels on a side of the smallest image that its exported program takes.
        halo: pixels of surroundings on each side, a multiple of ``multiple``, that a tile needs for its middle to come out as in
            the whole image, or nearly so: a table in the documentation tells the deviation.
        exact_halo: whether that halo holds all that an output pixel depends on.
        fill: what the image is filled up with: its "reflection", or "zeros".
        unsafe: dtypes in which the network's activations overflow or lose the image, with the reason.
    """

    scale: int
    in_channels: int
    out_channels: int
    multiple: int = 1
    least: int = 2
    halo: int
    exact_halo: bool = False
    fill: Literal["reflection", "zeros"] = "reflection"
    unsafe: ClassVar[dict[torch.dtype, str]] = {}

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Restore images of any size from 1 x 1 on.

        Raises:
            ValueError: for another number of axes or channels, or no pixels.
        """
        if x_BCHW.ndim != 4 or x_BCHW.shape[1] != self.in_channels or 0 in x_BCHW.shape:
            expected = f"(batch, {self.in_channels}, height, width), none of them zero"
            raise ValueError(f"{type(self).__name__}: x has shape {list(x_BCHW.shape)}, expected {expected}")
        height, width = x_BCHW.shape[-2:]
        y_BCHW = self.body(self._filled_up(x_BCHW))
        return y_BCHW[..., : height * self.scale, : width * self.scale]

    @abstractmethod
    def body(self, x_BCHW: Tensor) -> Tensor:
        """Restore images whose height and width are multiples of ``multiple``."""

    def folded(self) -> "Network":
        """Return a network that computes the same without what only training needs: the one that is published.

        It is the network itself unless a sub-class has something to fold, and then a copy.
        """
        return self

    def _filled_up(self, x_BCHW: Tensor) -> Tensor:
        for axis in (2, 3):
            size = x_BCHW.shape[axis]
            missing = -size % self.multiple
            if missing and self.fill == "zeros":
                shape = list(x_BCHW.shape)
                shape[axis] = missing
                x_BCHW = torch.cat([x_BCHW, x_BCHW.new_zeros(shape)], axis)
            elif missing:
                # Back and forth without repeating the edge: torch's own reflection ends where the image is smaller than that.
                period = max(2 * (size - 1), 1)
                index = torch.arange(size + missing, device=x_BCHW.device) % period
                x_BCHW = x_BCHW.index_select(axis, torch.minimum(index, period - index) if size > 1 else torch.zeros_like(index))
        return x_BCHW
