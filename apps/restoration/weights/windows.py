"""Layouts of networks with window attention: their buffers, which follow from sizes, are checked on loading.

Shapes: N tokens of a window of queries, M of one of keys, W windows of an image.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ....core.weights.layout import Layout

_TABLE, _INDEX = "relative_position_bias_table", "relative_position_index"
_MASKED = -100.0  # added to the scores of pairs that a shift brought together


def window_of(rows: int) -> int:
    """Return the window on an axis from the rows (2 w - 1)^2 of its bias table."""
    return (math.isqrt(rows) + 1) // 2


def position_index(queries: int, keys: int) -> Tensor:
    """Return the row of the bias table for each pair of tokens, by the sizes of windows on an axis: (N, M).

    As Swin counts them for equal windows (Liu et al. 2021, section 3.2), and the official HAT for larger ones of keys: there some
    rows are negative, and count from the table's end.
    """
    if queries == keys:
        difference = torch.arange(queries)[:, None] - torch.arange(keys) + queries - 1
    else:
        difference = torch.arange(keys) - torch.arange(queries)[:, None] + queries - keys + 1
    flat = difference[:, None, :, None] * (queries + keys - 1) + difference[None, :, None, :]
    return flat.reshape(queries**2, keys**2)


def shift_mask(size: tuple[int, int], window: int) -> Tensor:
    """Return what the official networks add to the scores in windows shifted by half: (W, N, N)."""
    parts = [torch.arange(n).ge(n - window).long() + torch.arange(n).ge(n - window // 2) for n in size]
    region = parts[0][:, None] * 3 + parts[1]
    height, width = size
    tiles_WN = region.reshape(height // window, window, width // window, window).transpose(1, 2).reshape(-1, window**2)
    return (tiles_WN[:, None] != tiles_WN[:, :, None]).float() * _MASKED


def check_buffer(name: str, found: Tensor, expected: Tensor) -> None:
    """Compare a stored buffer with what follows from sizes.

    Raises:
        ValueError: if they differ.
    """
    if found.shape != expected.shape or not torch.equal(found.cpu().to(expected.dtype), expected):
        raise ValueError(f"buffer {name} differs from what follows from the window: the network was changed, and is not this one")


@dataclass(frozen=True)
class WindowLayout(Layout):
    """A layout with the buffers of Swin in every attention.

    Args:
        shifted: a regular expression that finds the published names of blocks whose windows are shifted.
    """

    shifted: str = ""

    def to_ours(self, module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        expected: dict[int, Tensor] = {}  # few windows, many blocks
        for name, tensor in state.items():
            table = state.get(name.removesuffix(_INDEX) + _TABLE)
            if name.endswith(_INDEX) and table is not None:
                window = window_of(len(table))
                expected.setdefault(window, position_index(window, window))
                check_buffer(name, tensor, expected[window])
        return super().to_ours(module, state)

    def buffers(self, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, table in published.items():
            if name.endswith(_TABLE):
                window = window_of(len(table))
                found[name.removesuffix(_TABLE) + _INDEX] = position_index(window, window)
                block = name.removesuffix(f"attn.{_TABLE}")
                if re.search(self.shifted, block):
                    # For the smallest image that has shifted windows; other sizes are computed there.
                    found[f"{block}attn_mask"] = shift_mask((2 * window, 2 * window), window)
        return found
