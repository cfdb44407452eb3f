"""Channel mixers: they treat every token alone."""

from torch import Tensor, nn

from ..ops.swiglu import swiglu
from .linear import Linear
from .reuse import by_parts


class MLP(nn.Module):
    """Two linear layers with a GELU between: (..., dim) to (..., dim)."""

    def __init__(self, dim: int, hidden: int, *, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden = hidden
        self.fc1: nn.Module = Linear(dim, hidden, bias=bias)
        self.act = nn.GELU()
        self.drop = nn.Dropout(dropout)
        self.fc2 = Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return by_parts(self._mix, x, self.hidden)

    def _mix(self, x: Tensor) -> Tensor:
        # The GELU costs nothing in the layer itself; an adapter in its place, and another activation, do as they like.
        fused = isinstance(self.fc1, Linear) and type(self.act) is nn.GELU and self.act.approximate == "none"
        y: Tensor = self.fc2(self.drop(self.fc1(x, "gelu") if fused else self.act(self.fc1(x))))
        return y


class GEGLU(nn.Module):
    """Gated linear unit: value, gate = split(fc1 x), then fc2(value * gelu(gate)), (..., dim) to (..., dim).

    Source: Shazeer 2020, equation 6.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(dim, 2 * hidden)
        self.act = nn.GELU()
        self.fc2 = Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.fc1(x).chunk(2, dim=-1)
        y: Tensor = self.fc2(value * self.act(gate))
        return y


class SwiGLU(nn.Module):
    """Gated linear unit: w3(silu(w1 x) * w2 x), (..., dim) to (..., dim).

    Source: Shazeer 2020, equation 6. At equal parameters its ``hidden`` is two thirds of that of an MLP.
    """

    def __init__(self, dim: int, hidden: int, *, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.w1 = Linear(dim, hidden, bias=bias)
        self.w2 = Linear(dim, hidden, bias=bias)
        self.drop = nn.Dropout(dropout)
        self.w3 = Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.w3(self.drop(swiglu(self.w1(x), self.w2(x))))
        return y
