"""Which tokens are hidden from an encoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Generators = torch.Generator | Sequence[torch.Generator]


@dataclass(frozen=True, kw_only=True)
class Masking:
    """How much is hidden, and where.

    Args:
        space: share of the places that is hidden.
        bands: share of the bands that is hidden at all places, too: of the spectral tokens, or, where a token joins all bands, of
            the bands that it is made of.
        spectral: "joint" hides the same places of all spectral tokens, "independent" others of each (Cong et al. 2022, SatMAE,
            section 3.2).
        shared: whether co-registered images have one mask of places, as in SMARTIES (Sumbul et al. 2025, section 3.3).

    Raises:
        ValueError: a share that is not in 0..1 (1 excluded), both 0, or options that exclude each other.
    """

    space: float = 0.75
    bands: float = 0.0
    spectral: Literal["joint", "independent"] = "joint"
    shared: bool = True

    def __post_init__(self) -> None:
        for name, share in (("space", self.space), ("bands", self.bands)):
            if not 0 <= share < 1:
                raise ValueError(f"masking: the share of {name} is {share}, allowed are 0 to below 1")
        if not self.space and not self.bands:
            raise ValueError("masking: neither space nor bands are hidden, there would be nothing to predict")
        if self.spectral not in ("joint", "independent"):
            raise ValueError(f"masking: spectral is {self.spectral!r}, allowed are 'joint' and 'independent'")
        if self.bands and self.spectral == "independent":  # their union would differ in size from image to image
            raise ValueError("masking: hidden bands go with spectral 'joint' only")


def noise(batch: int, count: int, generator: Generators, device: torch.device) -> Tensor:
    """Return (batch, count) numbers in 0..1, drawn on the CPU: the same on every device.

    Args:
        batch, count: sizes.
        generator: one, or one for each image, so that what is drawn for an image does not depend on its neighbours.
        device: where the numbers go.
    """
    if isinstance(generator, torch.Generator):
        drawn = torch.rand(batch, count, generator=generator)
    else:
        drawn = torch.stack([torch.rand(count, generator=each) for each in generator])
    return drawn.to(device, non_blocking=True)


def hidden_count(count: int, share: float) -> int:
    """Return how many of a number are hidden: the share, rounded, at least one and never all."""
    return min(max(round(share * count), 1), count - 1)


def choose(noise: Tensor, there: Tensor, count: int) -> Tensor:
    """Choose ``count`` of each row by the least noise, in equal shares of those that are there and those that are not.

    So what is there is hidden to the share that was asked for, however much is missing, and yet each row has as many hidden ones,
    as batches need.

    Args:
        noise: (batch, n).
        there: bool (batch, n), False where there is nothing to see.
        count: how many, below n.

    Returns:
        bool (batch, n), ``count`` True in each row.
    """
    length = noise.shape[1]
    valid = there.sum(1)
    own = (valid * count + length // 2) // length  # of those that are there, rounded; one at least stays
    own = own.minimum((valid - 1).clamp_min(0)).maximum(count - (length - valid))[:, None]
    place = noise.argsort(dim=1, stable=True)
    there = there.gather(1, place)
    rank = torch.where(there, there.cumsum(1), (~there).cumsum(1))  # from 1, among its kind
    chosen = rank <= torch.where(there, own, count - own)
    return torch.zeros_like(chosen).scatter(1, place, chosen)


def hide(valid: Sequence[Tensor], masking: Masking, generator: Generators) -> list[Tensor]:
    """Choose the tokens that are hidden, of images of one sensor or of several co-registered ones.

    Args:
        valid: for each sensor, bool (batch, spectral, rows, columns), whether a token has a valid pixel.
        masking: how much.
        generator: of the choice, on the CPU.

    Returns:
        For each sensor, bool like ``valid``; as many are True in each image. Where a token joins all bands, the share of bands is
        not seen here: ``hide_bands``.

    Raises:
        ValueError: images of one place, or a shared mask of sensors whose tokens do not lie on each other.
    """
    hidden = [torch.zeros_like(v) for v in valid]
    if masking.space:
        hidden = _hide_places(valid, masking, generator)
    if masking.bands:
        for i, v in enumerate(valid):
            if v.shape[1] > 1:
                hidden[i] = hidden[i] | hide_bands(v.flatten(2).any(2), masking.bands, generator)[:, :, None, None]
    return hidden


def _hide_places(valid: Sequence[Tensor], masking: Masking, generator: Generators) -> list[Tensor]:
    joint = masking.spectral == "joint"
    maps = [v.any(1, keepdim=True) if joint else v for v in valid]
    if masking.shared and len(maps) > 1:
        if len({m.shape for m in maps}) > 1:
            sizes = " and ".join("x".join(map(str, m.shape[1:])) for m in maps)
            raise ValueError(f"masking: sensors of {sizes} tokens cannot share a mask; set shared to false, or equal sizes")
        maps = [torch.stack(maps).any(0)]
    hidden = []
    for there in maps:
        count = there[0].numel()
        if count == 1:
            raise ValueError("masking: an image is a single token, which cannot be both hidden and seen: take larger images")
        drawn = noise(len(there), count, generator, there.device)
        hidden.append(choose(drawn, there.flatten(1), hidden_count(count, masking.space)).reshape(there.shape))
    return [hidden[i % len(hidden)].expand_as(v) for i, v in enumerate(valid)]


def hide_bands(present: Tensor, share: float, generator: Generators) -> Tensor:
    """Choose bands that are hidden: bool (batch, bands), as many in each image; none of a single band.

    Args:
        present: bool (batch, bands), False for a band that an image lacks.
        share: of them.
        generator: of the choice, on the CPU.
    """
    batch, bands = present.shape
    if bands == 1:
        return torch.zeros_like(present)
    return choose(noise(batch, bands, generator, present.device), present, hidden_count(bands, share))
