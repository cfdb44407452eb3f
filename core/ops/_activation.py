"""Activations by name, for ops that end in one."""

from typing import Literal, get_args

from torch import Tensor
from torch.nn import functional as F

Activation = Literal["none", "relu", "leaky_relu", "gelu", "silu"]
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)  # in the order of core/csrc/activation.h


def check_activation(op: str, activation: str) -> None:
    """Raise ValueError unless the activation is known."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"{op}: activation is {activation!r}, allowed are {', '.join(ACTIVATIONS)}")


def activate(x: Tensor, activation: Activation, slope: float) -> Tensor:
    """Apply an activation; ``slope`` is that of leaky_relu's negative side, and gelu is the exact one."""
    if activation == "relu":
        return F.relu(x)
    if activation == "leaky_relu":
        return F.leaky_relu(x, slope)
    if activation == "gelu":
        return F.gelu(x)
    if activation == "silu":
        return F.silu(x)
    return x
