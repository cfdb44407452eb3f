"""SwiGLU's gate in two calls of PyTorch: any device, any floating dtype, differentiable any number of times."""

from torch import Tensor
from torch.nn import functional as F


def swiglu(gate: Tensor, value: Tensor) -> Tensor:
    """Compute silu(gate) * value; in half precision the result is rounded twice."""
    return F.silu(gate) * value
