"""A backbone that keeps one token for each pixel."""

import itertools
import math
from collections.abc import Iterable

from torch import Tensor, nn

from ..blocks.metaformer import MetaFormerBlock
from ..layers.attention import WindowAttention
from ..layers.mlp import SwiGLU
from ..layers.norm import NormKind, make_norm


def window_blocks(
    dim: int,
    depth: int,
    *,
    heads: int,
    window: int = 8,
    mlp_ratio: float = 8 / 3,
    drop_path: float = 0.0,
    layer_scale: float | None = None,
    norm: NormKind = "layer",
) -> list[MetaFormerBlock]:
    """Return blocks of 2-D window attention and SwiGLU whose window grid is shifted by half a window in every second block.

    Args:
        dim: channels.
        depth: number of blocks.
        heads: attention heads.
        window: pixels on a side of the square windows.
        mlp_ratio: hidden channels of the SwiGLU for each channel; 8/3 costs what an MLP of ratio 4 costs.
        drop_path: probability to skip a branch in training, the same in every block.
        layer_scale: as in ``MetaFormerBlock``.
        norm: kind of the norms.
    """
    shifts = [(0, 0), (window // 2, window // 2)]
    return [
        MetaFormerBlock(
            dim,
            WindowAttention(dim, heads=heads, window=(window, window), shift=shifts[i % 2]),
            channel_mixer=SwiGLU(dim, round(mlp_ratio * dim)),
            norm=norm,
            drop_path=drop_path,
            layer_scale=layer_scale,
        )
        for i in range(depth)
    ]


class DenseBackbone(nn.Module):
    """Embedding, blocks and a final norm: (batch, channels, height, width) to (batch, height, width, dim).

    Nothing in it depends on the image's size or on statistics over space. Where a tile starts at multiples of ``window``, it
    therefore gives exactly what the whole image gives, at every pixel with at least ``receptive_field`` pixels between it and
    the edges at which the tile was cut.

    Args:
        embed: (batch, channels, height, width) to (batch, height, width, dim), with its reach in pixels as ``radius``.
        blocks: such as ``window_blocks`` returns.
        dim: channels of the tokens.
        norm: kind of the final norm.

    Raises:
        ValueError: if the embedding or a block does not tell its reach.
    """

    def __init__(self, embed: nn.Module, blocks: Iterable[MetaFormerBlock], *, dim: int, norm: NormKind = "layer") -> None:
        super().__init__()
        blocks = list(blocks)
        self._mixers = [block.mixer for block in blocks if isinstance(block.mixer, WindowAttention)]
        radius = getattr(embed, "radius", None)
        if not isinstance(radius, int) or len(self._mixers) < len(blocks):
            kinds = ", ".join(type(m).__name__ for m in (embed, *(block.mixer for block in blocks)))
            raise ValueError(f"DenseBackbone: needs an embed with a radius and blocks of WindowAttention, got {kinds}")
        self._embed_radius = radius
        self.dim = dim
        self.embed = embed
        self.blocks = nn.ModuleList(blocks)
        self.norm = make_norm(norm, dim)

    @property
    def window(self) -> int:
        """Period of all window grids together, in pixels."""
        return math.lcm(*(w for mixer in self._mixers for w in mixer.window))

    @property
    def receptive_field(self) -> int:
        """Reach in pixels on each side: what lies farther away does not change a token, wherever it lies in its windows.

        Blocks add less than a window each: the union of the windows that one block has joined ends where windows end.
        """
        reach = 0
        for axis, x in itertools.product(range(2), range(self.window)):
            low = high = x
            for window, shift in ((mixer.window[axis], mixer.shift[axis]) for mixer in reversed(self._mixers)):
                low = (low - shift) // window * window + shift
                high = (high - shift) // window * window + shift + window - 1
            reach = max(reach, x - low, high - x)
        return self._embed_radius + reach

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        y: Tensor = self.norm(x)
        return y
