"""VMamba: a pyramid whose tokens are mixed by selective scans."""

from collections.abc import Sequence
from functools import partial
from typing import Literal, get_args

from torch import nn

from ..blocks.metaformer import MetaFormerBlock
from ..layers.downsample import PatchMerging, StridedConv
from ..layers.mixers import MixerFactory, scan
from ..layers.mlp import GEGLU, MLP
from ..layers.ss2d import SelectiveScan
from .hierarchical import Pyramid, ScaleFactory, hierarchical

ChannelMixer = Literal["mlp", "geglu"]
Stem = Literal["patches", "overlapping"]
Downsample = Literal["merging", "patches", "overlapping"]

# A remainder of the size is left out by patches, as in the authors' code.
_DOWNSAMPLES: dict[str, ScaleFactory] = {
    "merging": PatchMerging,
    "patches": partial(StridedConv, kernel=2, stride=2, fill_up=False),
    "overlapping": partial(StridedConv, kernel=3, stride=2, padding=1),
}


def vssm(
    channels: int,
    *,
    dims: Sequence[int] = (96, 192, 384, 768),
    depths: Sequence[int] = (2, 2, 8, 2),
    mixer: MixerFactory = scan,
    mlp_ratio: float = 4.0,
    channel_mixer: ChannelMixer = "mlp",
    stem: Stem = "overlapping",
    patch: int = 4,
    patch_norm: bool = True,
    downsample: Downsample = "overlapping",
    axes: int = 2,
    drop_path: float = 0.2,
) -> Pyramid:
    """Build a VMamba for images or volumes: (batch, channels, *size) to tokens, or with ``features`` to those of all stages.

    Source: Liu et al. 2024 (VMamba), section 4.1; three axes as an extension of it. The defaults are those of VMamba-T as
    released last, of one state, without gate ("s1l8"). Weights start as there: linear layers normal with deviation 0.02.

    Args:
        channels: of the image.
        dims: channels of each stage.
        depths: blocks of each stage.
        mixer: makes the token mixer of a block; options of ``scan`` are fixed by ``functools.partial``.
        mlp_ratio: hidden channels of the channel mixer for each channel. 0 leaves it out, as in VMamba's first release.
        channel_mixer: "mlp" or "geglu".
        stem: "patches", or "overlapping": two convolutions of stride patch / 2.
        patch: pixels of the image on a side of a token of the first stage.
        patch_norm: whether the convolutions of the stem are normed.
        downsample: between stages: "merging" as in Swin, "patches" of 2 on a side, or "overlapping" ones of 3.
        axes: spatial axes, 2 or 3.
        drop_path: probability to skip a branch in the last block; it rises linearly from 0 in the first one.

    Raises:
        ValueError: for options that are not allowed.
    """
    for name, value, allowed in (
        ("channel_mixer", channel_mixer, get_args(ChannelMixer)),
        ("stem", stem, get_args(Stem)),
        ("downsample", downsample, get_args(Downsample)),
    ):
        if value not in allowed:
            raise ValueError(f"vssm: {name} is {value!r}, expected one of {', '.join(allowed)}")
    if stem == "overlapping" and patch % 2:
        raise ValueError(f"vssm: patch is {patch}, an overlapping stem needs an even one")
    model = hierarchical(
        channels,
        dims=dims,
        depths=depths,
        heads=[1] * len(dims),
        mixer=mixer,
        axes=axes,
        stem=partial(_stem, overlapping=stem == "overlapping", patch=patch, norm=patch_norm),
        block=partial(_block, mlp_ratio=mlp_ratio, channel_mixer=channel_mixer),
        downsample=_DOWNSAMPLES[downsample],
        drop_path=drop_path,
    )
    for module in model.modules():
        if isinstance(module, SelectiveScan | MLP | GEGLU | PatchMerging):  # other mixers know best how they start
            for linear in module.children():
                if isinstance(linear, nn.Linear):
                    nn.init.trunc_normal_(linear.weight, std=0.02)
                    if linear.bias is not None:
                        nn.init.zeros_(linear.bias)
    return model


def _stem(dim: int, out: int, *, axes: int, overlapping: bool, patch: int, norm: bool) -> nn.Module:
    kind: Literal["layer"] | None = "layer" if norm else None
    if not overlapping:
        return StridedConv(dim, out, axes=axes, kernel=patch, stride=patch, norm=kind, image=True, fill_up=False)
    conv = partial(StridedConv, axes=axes, kernel=patch // 2 + 1, stride=patch // 2, padding=1, norm=kind)
    return nn.Sequential(conv(dim, out // 2, image=True), nn.GELU(), conv(out // 2, out))


def _block(
    dim: int, mixer: nn.Module, *, axes: int, drop_path: float, mlp_ratio: float, channel_mixer: ChannelMixer
) -> nn.Module:
    del axes  # nothing in the block but its mixer looks around
    hidden = int(mlp_ratio * dim)
    made = None if not hidden else MLP(dim, hidden) if channel_mixer == "mlp" else GEGLU(dim, hidden)
    return MetaFormerBlock(dim, mixer, channel_mixer=made, drop_path=drop_path)
