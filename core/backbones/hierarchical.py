"""Backbones in stages, from fine to coarse, with any token mixer."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Protocol

from torch import Tensor, nn

from ..blocks.metaformer import mlp_block
from ..layers.downsample import PatchMerging, StridedConv
from ..layers.mixers import MIXERS, MixerFactory
from ..layers.norm import NormKind, make_norm


class BlockFactory(Protocol):
    """Makes a block around a mixer, (batch, *size, dim) to the same shape."""

    def __call__(self, dim: int, mixer: nn.Module, *, axes: int, drop_path: float) -> nn.Module: ...


class ScaleFactory(Protocol):
    """Makes a stem, from an image (batch, dim, *size), or a downsampling, from tokens (batch, *size, dim)."""

    def __call__(self, dim: int, out: int, *, axes: int) -> nn.Module: ...


Mixer = str | MixerFactory


def patch_stem(dim: int, out: int, *, axes: int = 2, patch: int = 4, norm: NormKind | None = "layer") -> nn.Module:
    """Return a stem that makes one token of each square or cubic patch, filled up with zeros at the image's end."""
    return StridedConv(dim, out, axes=axes, kernel=patch, stride=patch, norm=norm, image=True)


class Pyramid(nn.Module):
    """Stem, stages of blocks with downsampling between them, and a final norm: (batch, channels, *size) to tokens.

    Nothing in it depends on the image's size, unless one of the parts does.

    Args:
        stem: (batch, channels, *size) to (batch, *size_0, dims[0]).
        stages: blocks of each stage; each keeps the shape of its input.
        downs: between the stages, one fewer than those: (batch, *size_i, dims[i]) to (batch, *size_i+1, dims[i+1]).
        dims: channels of each stage.
        norm: of the last stage's tokens. Default: none.

    Raises:
        ValueError: if the numbers of stages, downsamplings and dims do not agree.
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: Iterable[Iterable[nn.Module]],
        *,
        downs: Iterable[nn.Module],
        dims: Sequence[int],
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.dims = tuple(dims)
        self.stem = stem
        self.stages = nn.ModuleList(nn.Sequential(*blocks) for blocks in stages)
        self.downs = nn.ModuleList(downs)
        self.norm = nn.Identity() if norm is None else norm
        if not len(self.stages) == len(self.downs) + 1 == len(self.dims):
            counts = f"{len(self.stages)} stages, {len(self.downs)} downs and {len(self.dims)} dims"
            raise ValueError(f"Pyramid: got {counts}, expected one down fewer than stages, and as many dims")

    def features(self, x: Tensor) -> list[Tensor]:
        """Map (batch, channels, *size) to the tokens of all stages, (batch, *size_i, dims[i]); the last are normed."""
        x, found = self.stem(x), []
        for i, blocks in enumerate(self.stages):
            x = blocks(self.downs[i - 1](x) if i else x)
            found.append(x)
        return [*found[:-1], self.norm(x)]

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, *size) to the tokens of the last stage, (batch, *size_n, dims[-1])."""
        return self.features(x)[-1]


def hierarchical(
    channels: int,
    *,
    dims: Sequence[int],
    depths: Sequence[int],
    heads: Sequence[int],
    mixer: Mixer | Sequence[Mixer] = ("window", "shifted_window"),
    axes: int = 2,
    stem: ScaleFactory = patch_stem,
    block: BlockFactory = mlp_block,
    downsample: ScaleFactory = PatchMerging,
    norm: NormKind | None = "layer",
    drop_path: float = 0.0,
) -> Pyramid:
    """Build a pyramid of MetaFormer blocks (Yu et al. 2022) with any token mixer.

    Options of the parts are fixed by ``functools.partial``, for example
    ``hierarchical(3, ..., mixer=partial(neighborhood, kernel=5), block=partial(mlp_block, mlp_ratio=2.0))``.

    Args:
        channels: of the image.
        dims: channels of each stage.
        depths: blocks of each stage.
        heads: attention heads of each stage; mixers without heads ignore it.
        mixer: a name of ``MIXERS`` or a factory; of several, the blocks of a stage take one after the other in turn.
        axes: spatial axes of the image.
        stem: makes the stem.
        block: makes a block around a mixer.
        downsample: makes what lies between two stages.
        norm: kind of the final norm; None for none.
        drop_path: probability to skip a branch in the last block; it rises linearly from 0 in the first one.

    Raises:
        ValueError: if dims, depths and heads differ in length, or for no mixer or an unknown name of one.
    """
    if not len(dims) == len(depths) == len(heads) > 0:
        raise ValueError(f"hierarchical: dims {dims}, depths {depths} and heads {heads}, expected one of each for a stage")
    names: Sequence[Mixer] = [mixer] if isinstance(mixer, str) or callable(mixer) else mixer
    if not names:
        raise ValueError("hierarchical: mixer is empty, expected at least one name or factory")
    makers = [MIXERS[name] if isinstance(name, str) else name for name in names]
    last = max(sum(depths) - 1, 1)
    rates = (drop_path * i / last for i in itertools.count())
    stages = [
        [
            block(
                dim,
                makers[index % len(makers)](dim, heads=heads[stage], axes=axes, stage=stage, index=index),
                axes=axes,
                drop_path=next(rates),
            )
            for index in range(depths[stage])
        ]
        for stage, dim in enumerate(dims)
    ]
    downs = [downsample(dim, out, axes=axes) for dim, out in itertools.pairwise(dims)]
    final = None if norm is None else make_norm(norm, dims[-1])
    return Pyramid(stem(channels, dims[0], axes=axes), stages, downs=downs, dims=dims, norm=final)
