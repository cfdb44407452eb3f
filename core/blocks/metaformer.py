"""The residual skeleton of transformer-like blocks."""

import torch
from torch import Tensor, nn

from ..layers.drop import DropPath
from ..layers.norm import NormKind, make_norm, norm_residual


class MetaFormerBlock(nn.Module):
    """x + mixer(norm(x)), then x + channel_mixer(norm(x)).

    Source: Yu et al. 2022 (MetaFormer), equations 2 and 3; layer scale: Touvron et al. 2021 (CaiT), equation 4.

    Args:
        dim: channels.
        mixer: moves information between tokens, (batch, *size, dim) to the same shape.
        channel_mixer: treats each token alone, same shape.
        norm: kind of both norms.
        drop_path: probability to skip a branch for a sample in training.
        layer_scale: initial value of a learned factor for each channel of both branches. Default: none.
    """

    def __init__(
        self,
        dim: int,
        mixer: nn.Module,
        *,
        channel_mixer: nn.Module,
        norm: NormKind = "layer",
        drop_path: float = 0.0,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.norm1, self.mixer = make_norm(norm, dim), mixer
        self.norm2, self.channel_mixer = make_norm(norm, dim), channel_mixer
        self.drop_path = DropPath(drop_path)
        self.scale1 = None if layer_scale is None else nn.Parameter(torch.full((dim,), layer_scale))
        self.scale2 = None if layer_scale is None else nn.Parameter(torch.full((dim,), layer_scale))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, *size, dim) to the same shape."""
        x, y = norm_residual(self.norm2, x, self.drop_path(self.mixer(self.norm1(x))), self.scale1)
        branch: Tensor = self.drop_path(self.channel_mixer(y))
        return x + (branch if self.scale2 is None else branch * self.scale2)
