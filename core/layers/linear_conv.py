"""A linear layer followed by a depthwise convolution, for gates and attention."""

from torch import Tensor, nn

from ..ops.depthwise_conv import Activation, depthwise_conv
from ..ops.linear import linear
from .conv import DepthwiseConv
from .linear import Linear


class LinearConv(nn.Module):
    """A linear layer and a depthwise 3 x 3 convolution, of which parts of the output channels can be had one by one.

    Each part then lies in memory on its own, as the products that follow want it.
    """

    def __init__(self, dim: int, out: int, *, bias: bool = True) -> None:
        super().__init__()
        self.channels = out
        self.linear = Linear(dim, out, bias=bias)
        self.conv = DepthwiseConv(out, (3, 3), bias=bias)

    def forward(self, x: Tensor, first: int, last: int, activation: Activation = "none") -> Tensor:
        """Return output channels first .. last - 1 of (B, height, width, C)."""
        biases = [None if bias is None else bias[first:last] for bias in (self.linear.bias, self.conv.bias)]
        y = linear(x, self.linear.weight[first:last], biases[0])
        return depthwise_conv(y, self.conv.weight[first:last], biases[1], activation=activation)
