"""The linear layer."""

from torch import Tensor, nn

from ..ops.linear import Activation, linear


class Linear(nn.Linear):
    """PyTorch's linear layer, with its parameters and their names, computed by ``ops.linear``: (..., in) to (..., out)."""

    def forward(self, x: Tensor, activation: Activation = "none") -> Tensor:
        return linear(x, self.weight, self.bias, activation=activation)
