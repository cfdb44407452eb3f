"""Features of an encoder for each place, from any depth."""

import re
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.backbones.token_encoder import Encoded, Encoder, TokenEncoder, in_place, seen_first
from ...core.sensors.batch import SensorBatch
from ...core.sensors.model import FoundationModel

LAST = "last"
ALL = "all"


def parse_layers(text: str, encoder: Encoder) -> tuple[int, ...]:
    """Turn a user's words, such as "last" or "2,4,last", into depths: 0 the embedded tokens, k after block k, -1 the last norm.

    "all" are the embedded tokens and those after every block.

    Raises:
        ValueError: a word that is none, or a depth that the encoder has not.
    """
    depth = blocks_of(encoder)
    found = []
    for word in text.replace(" ", "").split(","):
        if word == LAST:
            found.append(-1)
        elif word == ALL and depth:
            found.extend(range(depth + 1))
        elif re.fullmatch(r"\d+", word) and int(word) <= depth:
            found.append(int(word))
        else:
            if not depth:
                raise ValueError(f"layer {word!r}: this encoder's blocks see more than a sequence of tokens, allowed is {LAST}")
            raise ValueError(f"layer {word!r}: allowed are 0..{depth}, {ALL} and {LAST}, or several of them joined by commas")
    return tuple(found)


def blocks_of(encoder: Encoder) -> int:
    """Count the blocks between which features can be taken: those of a ``TokenEncoder``, others have none."""
    return len(encoder.blocks) if isinstance(encoder, TokenEncoder) else 0


def place_features(model: FoundationModel, batch: SensorBatch, layers: Sequence[int] = (-1,)) -> Tensor:
    """Encode images in physical units: (batch, rows, columns, features), the layers side by side.

    Spectral tokens of a place are averaged. What is not from the last norm is normalised without weights, so that layers side by
    side weigh the same.

    Args:
        model: of a ``TokenEncoder``, if other layers than the last are asked for.
        batch: images in multiples of the patch.
        layers: as from ``parse_layers``.
    """
    if all(layer == -1 for layer in layers):
        return torch.cat([model.encode(batch).places()] * len(layers), dim=-1)
    assert isinstance(model.encoder, TokenEncoder), "parse_layers allows these alone"
    seen: dict[int, Tensor] = {}
    encoded = replace(model, encoder=_watched(model.encoder, seen)).encode(batch)
    size = encoded.tokens.shape[1:4]
    parts = []
    for layer in layers:
        if layer == -1:
            parts.append(encoded.places())
            continue
        tokens = seen[layer][:, encoded.prefix.shape[1] :]
        if encoded.present is not None and not bool(encoded.present.all()):  # bands that are not there were left out
            kept = seen_first(encoded.present[:, :, None, None].expand(-1, *size).flatten(1))
            tokens = in_place(tokens, *kept, size.numel())
        tokens = torch.unflatten(tokens, 1, size)
        parts.append(F.layer_norm(Encoded(tokens, encoded.prefix, encoded.present).places(), tokens.shape[-1:]))
    return torch.cat(parts, dim=-1)


def _watched(encoder: TokenEncoder, seen: dict[int, Tensor]) -> TokenEncoder:
    """Return an encoder of the same modules that tells what goes into its first block and comes out of each.

    Hooks would do the same in all threads that the encoder is used by.
    """
    view = copy(encoder)
    view._modules = dict(encoder._modules)  # noqa: SLF001 - a table of its own, of the same modules
    view.blocks = nn.ModuleList(_Watched(block, depth, seen) for depth, block in enumerate(encoder.blocks, start=1))
    return view


class _Watched(nn.Module):
    def __init__(self, block: nn.Module, depth: int, seen: dict[int, Tensor]) -> None:
        super().__init__()
        self.block, self.depth, self.seen = block, depth, seen

    def forward(self, tokens: Tensor, *others: Any) -> Tensor:
        if self.depth == 1:
            self.seen[0] = tokens
        made: Tensor = self.block(tokens, *others)
        self.seen[self.depth] = made
        return made
