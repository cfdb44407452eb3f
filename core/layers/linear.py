"""The linear layer, and its calls that an adapter in its place (``lora``) can stand as well."""

from collections.abc import Iterable

from torch import Tensor, nn

from ..ops._activation import activate
from ..ops.linear import Activation, linear


class Linear(nn.Linear):
    """PyTorch's linear layer, with its parameters and their names, computed by ``ops.linear``: (..., in) to (..., out)."""

    def forward(self, x: Tensor, activation: Activation = "none", slope: float = 0.01) -> Tensor:
        return linear(x, self.weight, self.bias, activation=activation, slope=slope)


def activated(layer: nn.Module, x: Tensor, activation: Activation, slope: float = 0.01) -> Tensor:
    """Return activation(layer(x)), (..., in) to (..., out): in one pass over memory if the layer is a ``Linear``."""
    y: Tensor = layer(x, activation, slope) if isinstance(layer, Linear) else activate(layer(x), activation, slope)
    return y


def in_parts(layer: nn.Module, x: Tensor, parts: int) -> Iterable[Tensor]:
    """Return equal parts of a layer's output channels.

    Of a ``Linear`` each lies in memory on its own, as products want it, and is computed when it is asked for.
    """
    if not isinstance(layer, Linear):
        return layer(x).chunk(parts, -1)  # type: ignore[no-any-return]
    biases = (None,) * parts if layer.bias is None else layer.bias.chunk(parts)
    return (linear(x, weight, bias) for weight, bias in zip(layer.weight.chunk(parts), biases, strict=True))
