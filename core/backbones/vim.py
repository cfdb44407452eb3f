"""Vision Mamba: a plain stack of Mamba layers on the sequence of an image's patches.

Shapes: B batch, C channels of the tokens, L tokens with class tokens, M patches.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ..blocks.metaformer import MetaFormerBlock
from ..layers.downsample import StridedConv
from ..layers.mamba import BiMamba, Mamba
from ..layers.norm import NormKind, make_norm

ClassPlace = Literal["middle", "first", "ends", "none"]
mean_of_directions = partial(BiMamba, average=True)


class Vim(nn.Module):
    """Patches in row-major order, blocks of one mixer each, and a final norm.

    Source: Zhu et al. 2024 (Vision Mamba), section 3; the defaults are its tiny model. Under autocast, positions and norms are
    float32, and so are the sums of the residual branches.

    Args:
        channels: of the image.
        dim: C, channels of the tokens.
        depth: number of blocks.
        size: of the images, which learned positions need. None leaves positions out and allows any size.
        axes: spatial axes of the image, 1 to 3.
        patch: pixels on a side of a patch.
        stride: pixels from one patch to the next. Default: ``patch``; fewer let patches overlap.
        mixer: makes the mixer of a block from ``dim``, (B, L, C) to the same shape.
        class_at: where the learned class token is: in the "middle" of the patches, "first", one at each of both "ends", "none".
        norm: kind of all norms, with epsilon 1e-5.
        paired: whether every second block reads the sequence backwards, and its output is added to that of the block before it,
            on the same input. The depth must be even then.
        drop_path: probability to skip the last block's branch; it rises linearly from 0 in the first one.
        layer_scale: as in ``MetaFormerBlock``.

    Raises:
        ValueError: for options that are not allowed.
    """

    def __init__(
        self,
        channels: int,
        dim: int = 192,
        *,
        depth: int = 24,
        size: tuple[int, ...] | None = (224, 224),
        axes: int = 2,
        patch: int = 16,
        stride: int | None = None,
        mixer: Callable[[int], nn.Module] = mean_of_directions,
        class_at: ClassPlace = "middle",
        norm: NormKind = "rms",
        paired: bool = False,
        drop_path: float = 0.1,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        if class_at not in get_args(ClassPlace):
            raise ValueError(f"Vim: class_at is {class_at!r}, expected one of {', '.join(get_args(ClassPlace))}")
        if paired and depth % 2:
            raise ValueError(f"Vim: depth is {depth}, paired blocks need an even one")
        if size is not None and (len(size) != axes or min(size) < patch):
            raise ValueError(f"Vim: size is {tuple(size)}, expected {axes} sizes of at least a patch of {patch}")
        stride = patch if stride is None else stride
        self.dim, self.size, self.class_at, self.paired = dim, size, class_at, paired
        self.embed = StridedConv(channels, dim, axes=axes, kernel=patch, stride=stride, norm=None, image=True, fill_up=False)
        count = {"none": 0, "ends": 2}.get(class_at, 1)
        self.class_tokens = nn.Parameter(torch.empty(count, dim)) if count else None
        patches = None if size is None else math.prod((n - patch) // stride + 1 for n in size)
        self.position = None if patches is None else nn.Parameter(torch.empty(patches + count, dim))
        rates = torch.linspace(0, drop_path, depth, dtype=torch.float64).tolist()
        self.blocks = nn.ModuleList(
            MetaFormerBlock(dim, mixer(dim), channel_mixer=None, norm=norm, drop_path=rate, layer_scale=layer_scale)
            for rate in rates
        )
        self.norm = make_norm(norm, dim)
        self._initialise(depth)

    def sequence(self, x: Tensor) -> Tensor:
        """Map (B, channels, *size) to all normed tokens, class tokens at their places: (B, L, C)."""
        return self._sequence(self.embed(x).flatten(1, -2), tuple(x.shape[2:]))

    def pooled(self, x: Tensor) -> Tensor:
        """Map (B, channels, *size) to one vector for each image, (B, C): the class token or the mean of two, else of all."""
        x_BLC = self.sequence(x)
        if self.class_at == "none":
            return x_BLC.mean(1)
        if self.class_at == "ends":
            return 0.5 * (x_BLC[:, 0] + x_BLC[:, -1])
        return x_BLC[:, self._place(x_BLC.shape[1] - 1)]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, *size) to the tokens of the patches, (B, *grid, C)."""
        embedded = self.embed(x)
        x_BLC = self._sequence(embedded.flatten(1, -2), tuple(x.shape[2:]))
        if self.class_at == "ends":
            x_BLC = x_BLC[:, 1:-1]
        elif self.class_at != "none":
            place = self._place(x_BLC.shape[1] - 1)
            x_BLC = torch.cat([x_BLC[:, :place], x_BLC[:, place + 1 :]], dim=1)
        return torch.unflatten(x_BLC, 1, embedded.shape[1:-1])

    def _place(self, patches: int) -> int:
        return patches // 2 if self.class_at == "middle" else 0

    def _sequence(self, x_BMC: Tensor, size: tuple[int, ...]) -> Tensor:
        if self.size is not None and size != tuple(self.size):
            raise ValueError(f"Vim: the image has size {size}, positions are for {tuple(self.size)}")
        x_BLC = x_BMC
        if self.class_tokens is not None:
            place = self._place(x_BMC.shape[1])
            head_B1C, *tail_B1C = self.class_tokens[:, None, None].expand(-1, len(x_BMC), -1, -1).unbind(0)
            x_BLC = torch.cat([x_BMC[:, :place], head_B1C, x_BMC[:, place:], *tail_B1C], dim=1)
        if self.position is not None:
            x_BLC = x_BLC + self.position
        if self.paired:
            for i in range(0, len(self.blocks), 2):
                x_BLC = self.blocks[i](x_BLC) + self.blocks[i + 1](x_BLC.flip(1)).flip(1)
        else:
            for block in self.blocks:
                x_BLC = block(x_BLC)
        y_BLC: Tensor = self.norm(x_BLC)
        return y_BLC

    @torch.no_grad()
    def _initialise(self, depth: int) -> None:
        """Start as published: learned tokens small, and branches the smaller the more of them are summed."""
        for tensor in (self.class_tokens, self.position):
            if tensor is not None:
                nn.init.trunc_normal_(tensor, std=0.02)
        weight, bias = self.embed.conv.weight, self.embed.conv.bias
        nn.init.trunc_normal_(weight, std=weight[0].numel() ** -0.5)
        if bias is not None:
            nn.init.zeros_(bias)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm | nn.RMSNorm):
                module.eps = 1e-5
            elif isinstance(module, Mamba | BiMamba):
                module.out_proj.weight /= math.sqrt(depth)
