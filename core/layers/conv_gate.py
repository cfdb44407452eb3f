"""Large-kernel depthwise convolution as a token mixer, and a channel mixer that convolves: the layers of CFSR's ConvFormer.

Shapes: B batch, H height, W width, C channels.
"""

import torch
from torch import Tensor, nn

from ..ops.depthwise_conv import Activation, depthwise_conv
from .conv import DepthwiseConv
from .linear import Linear, activated
from .reuse import add, multiply

# What an edge detector answers to: horizontal change, vertical change, and curvature (Sobel's two filters and Laplace's).
_EDGES = (
    ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0)),
    ((1.0, 2.0, 1.0), (0.0, 0.0, 0.0), (-1.0, -2.0, -1.0)),
    ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0)),
)


class EdgeConv(DepthwiseConv):
    """Depthwise 3 x 3 convolution with parallel edge detectors of learned strength: (B, H, W, C) to the same shape.

    Source: Wu et al. 2024 (CFSR), section III-D: a plain branch, two Sobel filters and Laplace's, each times a factor of the
    channel, added up. All are linear and see the same zeros outside the image, so that their sum is one convolution with the sum
    of their kernels, at the borders too. It is computed so, in training as well: gradients are those of separate branches.

    Args:
        dim: C.
        activation: what follows, by its name in ``depthwise_conv``.
    """

    filters: Tensor

    def __init__(self, dim: int, *, activation: Activation = "none") -> None:
        super().__init__(dim, (3, 3), activation=activation)
        self.edges = nn.Parameter(1e-3 * torch.randn(len(_EDGES), dim))
        self.register_buffer("filters", torch.tensor(_EDGES), persistent=False)

    def kernel(self) -> Tensor:
        """Return the sum of all branches' kernels, (C, 1, 3, 3)."""
        return self.weight + torch.einsum("ec,eyx->cyx", self.edges, self.filters.to(self.edges.dtype)).unsqueeze(1)

    def forward(self, x: Tensor) -> Tensor:
        return depthwise_conv(x, self.kernel(), self.bias, activation=self.activation)

    @torch.no_grad()
    def folded(self) -> DepthwiseConv:
        """Return the plain convolution that computes the same."""
        plain = DepthwiseConv(len(self.weight), (3, 3), activation=self.activation).to(self.weight)
        plain.load_state_dict({"weight": self.kernel(), "bias": self.bias})
        return plain


class ConvModulation(nn.Module):
    """Multiply values by a context from large-kernel depthwise convolution: (B, H, W, C) to the same shape.

    proj(conv(gelu(context x)) * value x). Source: Hou et al. 2022 (Conv2Former), section 3.2, with the GELU of CFSR (Wu et al.
    2024, section III-C).

    Args:
        dim: C.
        kernel: of the convolution on both axes, odd.
    """

    def __init__(self, dim: int, *, kernel: int) -> None:
        super().__init__()
        self.context = Linear(dim, dim)
        self.conv = DepthwiseConv(dim, (kernel, kernel))
        self.value = Linear(dim, dim)
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.proj(multiply(self.value(x), self.conv(activated(self.context, x, "gelu"))))
        return y


class ConvMLP(nn.Module):
    """Two linear layers with a depthwise convolution as a residual between: (B, H, W, C) to the same shape.

    h = gelu(fc1 x), then fc2(h + gelu(conv h)). Source: Wu et al. 2024 (CFSR), section III-D.

    Args:
        dim: C.
        hidden: channels between.
        kernel: of the convolution on both axes, odd.
        edges: whether the convolution has edge detectors beside it, which help in training and can be folded in after it.

    Raises:
        ValueError: for an even kernel, or edge detectors beside another than one of 3.
    """

    def __init__(self, dim: int, hidden: int, *, kernel: int = 3, edges: bool = False) -> None:
        super().__init__()
        if edges and kernel != 3:
            raise ValueError(f"ConvMLP: kernel is {kernel}, but edge detectors are for 3")
        self.fc1 = Linear(dim, hidden)
        self.conv = EdgeConv(hidden, activation="gelu") if edges else DepthwiseConv(hidden, (kernel,) * 2, activation="gelu")
        self.fc2 = Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        h = activated(self.fc1, x, "gelu")
        y: Tensor = self.fc2(add(self.conv(h), h))
        return y
