"""The residual skeleton of transformer-like blocks."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..layers.drop import DropPath
from ..layers.mlp import MLP
from ..layers.norm import NormKind, make_norm, norm_residual
from ..layers.reuse import add


class MetaFormerBlock(nn.Module):
    """x + mixer(norm(x)), then x + channel_mixer(norm(x)).

    Source: Yu et al. 2022 (MetaFormer), equations 2 and 3; layer scale: Touvron et al. 2021 (CaiT), equation 4; norm at the end
    of the branch: Liu et al. 2022 (Swin V2), section 3.2.

    Args:
        dim: channels.
        mixer: moves information between tokens, (batch, *size, dim) to the same shape.
        channel_mixer: treats each token alone, same shape. None leaves its branch out.
        norm: kind of both norms.
        norm_position: "before": x + f(norm(x)); "after": x + norm(f(x)).
        positions: applied to x itself before each of the branches, such as two of ``ConvPosition``. Default: none.
        drop_path: probability to skip a branch for a sample in training.
        layer_scale: initial value of a learned factor for each channel of both branches. Default: none.
    """

    def __init__(
        self,
        dim: int,
        mixer: nn.Module,
        *,
        channel_mixer: nn.Module | None,
        norm: NormKind = "layer",
        norm_position: Literal["before", "after"] = "before",
        positions: tuple[nn.Module, nn.Module] | None = None,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        if norm_position not in ("before", "after"):
            raise ValueError(f"MetaFormerBlock: norm_position is {norm_position!r}, expected 'before' or 'after'")
        self.norm_position = norm_position
        self.position1 = None if positions is None else positions[0]
        self.position2 = None if positions is None else positions[1]
        self.norm1, self.mixer = make_norm(norm, dim), mixer
        self.norm2 = None if channel_mixer is None else make_norm(norm, dim)
        self.channel_mixer = channel_mixer
        self.drop_path = DropPath(drop_path)
        scales = [None if layer_scale is None else nn.Parameter(torch.full((dim,), layer_scale)) for _ in range(2)]
        self.scale1, self.scale2 = scales[0], None if channel_mixer is None else scales[1]

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """Map (batch, *size, dim) to the same shape; ``context`` is what else the mixer is called with, such as a mask."""
        x = x if self.position1 is None else self.position1(x)
        if self.norm2 is None or self.channel_mixer is None:
            return x + self._branch(x, self.norm1, self.mixer, self.scale1, *context)
        if self.norm_position == "before" and self.position2 is None:
            # The sum is normed where it is made: one pass over memory less.
            x, y = norm_residual(self.norm2, x, self.drop_path(self.mixer(self.norm1(x), *context)), self.scale1)
            branch: Tensor = self.drop_path(self.channel_mixer(y))
            return add(x, branch, self.scale2)  # that sum is new, and nobody else's
        x = x + self._branch(x, self.norm1, self.mixer, self.scale1, *context)
        x = x if self.position2 is None else self.position2(x)
        return x + self._branch(x, self.norm2, self.channel_mixer, self.scale2)

    def _branch(self, x: Tensor, norm: nn.Module, mixer: nn.Module, scale: Tensor | None, *context: Any) -> Tensor:
        y: Tensor = mixer(norm(x), *context) if self.norm_position == "before" else norm(mixer(x, *context))
        dropped: Tensor = self.drop_path(y if scale is None else y * scale)
        return dropped


def mlp_block(
    dim: int,
    mixer: nn.Module,
    *,
    axes: int = 2,
    mlp_ratio: float = 4.0,
    norm: NormKind = "layer",
    norm_position: Literal["before", "after"] = "before",
    drop_path: float = 0.0,
    layer_scale: float | None = None,
) -> MetaFormerBlock:
    """Return a ``MetaFormerBlock`` whose channel mixer is an MLP with ``int(mlp_ratio * dim)`` hidden channels."""
    return MetaFormerBlock(
        dim,
        mixer,
        channel_mixer=MLP(dim, int(mlp_ratio * dim)),
        norm=norm,
        norm_position=norm_position,
        drop_path=drop_path,
        layer_scale=layer_scale,
    )
