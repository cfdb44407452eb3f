"""What is told of a published system, so that its files can be recognised, loaded and used."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ....core.backbones.token_encoder import Encoder
from ....core.sensors.normalization import Normalization
from ....core.weights.load import Coverage, load_into

# Heads do not show in shapes: those of the published sizes of vision transformers.
_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
_DECODER_HEADS = {512: 16}

# From the names of timm's blocks to ours.
BLOCK_NAMES: tuple[tuple[str, str | None], ...] = ((r"\.attn\.", ".mixer."), (r"\.mlp\.", ".channel_mixer."))


class UnscaledError(ValueError):
    """It is not known how images become the numbers that a system was trained on."""


@dataclass(frozen=True)
class System:
    """A published system, one layout of its checkpoints.

    Args:
        name: for users, such as "SatMAE++".
        licence: of the weights.
        infer: tells from a state dict the arguments of the official constructor, those that shapes tell and those that all
            published checkpoints share; None if the tensors are of another system.
        build: makes our module of arguments of the official constructor; a ValueError for one that is not understood.
        load: copies a published state dict into that module, all of it or nothing.
        encoder: returns the part of the module that is the encoder.
        scale: makes of the arguments what maps images in physical units to what the encoder takes;
            ``UnscaledError`` if it cannot, saying what is missing.
        size: pixels on a side of the images that it was trained on; None if that does not show.
    """

    name: str
    licence: str
    infer: Callable[[Mapping[str, Tensor]], dict[str, Any] | None]
    build: Callable[[Mapping[str, Any]], nn.Module]
    load: Callable[[nn.Module, Mapping[str, Tensor]], Coverage]
    encoder: Callable[[nn.Module], Encoder]
    scale: Callable[[Mapping[str, Any]], Normalization]
    size: Callable[[Mapping[str, Any]], int | None]


def encoder_of(module: nn.Module) -> Encoder:
    """Return the encoder of an auto-encoder or a classifier."""
    encoder: Encoder = module.encoder  # type: ignore[assignment] # nn.Module forgets what its parts are
    return encoder


def image_size(arguments: Mapping[str, Any]) -> int:
    """Return the pixels on a side of the images of a training, which official constructors call ``img_size``."""
    return int(arguments["img_size"])


def unscaled(reason: str) -> Callable[[Mapping[str, Any]], Normalization]:
    """Return the ``scale`` of a system whose scale is not known: it raises an ``UnscaledError`` that tells the reason."""

    def scale(arguments: Mapping[str, Any]) -> Normalization:
        raise UnscaledError(reason)

    return scale


def unnamed_bands(count: int) -> tuple[float, ...]:
    """Return wavelengths of bands of which no more is known than that they differ."""
    return tuple(1000.0 + 100.0 * band for band in range(count))


def heads_of(dim: int, given: int | None, argument: str) -> int:
    """Return the number of attention heads of a published size.

    Raises:
        ValueError: for another size, if it is not given.
    """
    found = given or (_DECODER_HEADS if "decoder" in argument else _HEADS).get(dim)
    if found is None:
        raise ValueError(f"tensors do not tell the attention heads of {dim} channels: give {argument}")
    return found


def depth_of(state: Mapping[str, Tensor], blocks: str) -> int:
    """Count the blocks under a name such as "decoder_blocks"."""
    return len({match[1] for name in state if (match := re.match(rf"{blocks}\.(\d+)\.", name))})


def join_qkv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with ``attn.q``, ``attn.k`` and ``attn.v`` as one ``attn.qkv``, where all three are there."""
    joined = dict(state)
    for name in state:
        if match := re.fullmatch(r"(.*\.attn\.)q\.(weight|bias)", name):
            names = [f"{match[1]}{part}.{match[2]}" for part in "qkv"]
            if all(part in state for part in names):
                joined[f"{match[1]}qkv.{match[2]}"] = torch.cat([joined.pop(part) for part in names])
    return joined


def load_renamed(
    module: nn.Module,
    published: Mapping[str, Tensor],
    ours: Mapping[str, Tensor],
    verified: tuple[str, ...] = (),
) -> Coverage:
    """Copy tensors, translated to our names, into a module and report; ``verified`` are published names of computed ones."""
    same = sum(name in published for name in ours)
    return replace(load_into(module, ours), renamed=len(ours) - same, verified=verified)
