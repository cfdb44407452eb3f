"""A linear layer followed by a depthwise convolution, for gates and attention."""

from torch import Tensor, nn

from ..ops.depthwise_conv import Activation, depthwise_conv
from .conv import DepthwiseConv
from .linear import Linear, in_parts


class LinearConv(nn.Module):
    """A linear layer and a depthwise 3 x 3 convolution, whose output channels come in equal parts.

    Each part lies in memory on its own, as the products that follow want it.
    """

    def __init__(self, dim: int, out: int, *, bias: bool = True) -> None:
        super().__init__()
        self.linear = Linear(dim, out, bias=bias)
        self.conv = DepthwiseConv(out, (3, 3), bias=bias)

    def forward(self, x: Tensor, activations: tuple[Activation, ...]) -> list[Tensor]:
        """Map (B, height, width, C) to as many parts as there are activations, each behind its own."""
        count = len(activations)
        biases = (None,) * count if self.conv.bias is None else self.conv.bias.chunk(count)
        parts = zip(in_parts(self.linear, x, count), self.conv.weight.chunk(count), biases, activations, strict=True)
        return [depthwise_conv(y, weight, bias, activation=activation) for y, weight, bias, activation in parts]
