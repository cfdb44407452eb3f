"""Where a token stands."""

from torch import Tensor, nn

_CONVS: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class ConvPosition(nn.Module):
    """x + depthwise_convolution(x) on tokens (batch, *size, dim), with zeros outside the image.

    Source: Chu et al. 2023 (conditional positional encodings), section 3.2: the zeros at the border tell tokens where they are.

    Args:
        dim: channels.
        axes: spatial axes.
        kernel: of the convolution on every axis, odd.
    """

    def __init__(self, dim: int, *, axes: int = 2, kernel: int = 3) -> None:
        super().__init__()
        if axes not in _CONVS or kernel % 2 == 0:
            raise ValueError(f"ConvPosition: axes is {axes}, kernel is {kernel}, expected 1 to 3 axes and an odd kernel")
        self.conv = _CONVS[axes](dim, dim, kernel, padding=kernel // 2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x.movedim(-1, 1)).movedim(1, -1)
        return x + y
