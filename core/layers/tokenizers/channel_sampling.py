"""Which bands a step of training sees."""

import torch
from torch import Tensor


def sample_channels(bands: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw how many bands, each number from 1 to all of them alike likely, and then which: their indices, ascending.

    Drawn the other way round, each band on its own, nearly every draw would have about half of the bands, and an image of few
    bands would be a rare sight.

    Source: Bao et al. 2024 (ChannelViT), section 3.2, hierarchical channel sampling.

    Args:
        bands: how many there are.
        generator: on the CPU; None is PyTorch's own, of ``torch.manual_seed``.

    Raises:
        ValueError: if there is no band.
    """
    if bands < 1:
        raise ValueError(f"sample_channels: bands is {bands}, expected at least 1")
    count = int(torch.randint(1, bands + 1, (1,), generator=generator))
    return torch.randperm(bands, generator=generator)[:count].sort().values
