"""Features of an encoder for each place, from any depth."""

import re
from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.backbones.token_encoder import Encoded, Encoder
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
    blocks = getattr(encoder, "blocks", None)
    depth = len(blocks) if isinstance(blocks, nn.ModuleList) else 0
    found = []
    for word in text.replace(" ", "").split(","):
        if word == LAST:
            found.append(-1)
        elif word == ALL and depth:
            found.extend(range(depth + 1))
        elif re.fullmatch(r"\d+", word) and int(word) <= depth:
            found.append(int(word))
        else:
            allowed = f"0..{depth}, {ALL} and " if depth else ""
            raise ValueError(f"layer {word!r}: allowed are {allowed}{LAST}, or several of them joined by commas")
    return tuple(found)


def place_features(model: FoundationModel, batch: SensorBatch, layers: Sequence[int] = (-1,)) -> Tensor:
    """Encode images in physical units: (batch, rows, columns, features), the layers side by side.

    Spectral tokens of a place are averaged. What is not from the last norm is normalised without weights, so that layers side by
    side weigh the same.

    Args:
        model: of any encoder whose ``blocks`` take (batch, prefix + tokens, dim), if other layers than the last are asked for.
        batch: images in multiples of the patch.
        layers: as from ``parse_layers``.
    """
    if all(layer == -1 for layer in layers):
        return torch.cat([model.encode(batch).places()] * len(layers), dim=-1)
    blocks = getattr(model.encoder, "blocks")  # noqa: B009 - the protocol does not promise them
    seen: dict[int, Tensor] = {}
    with ExitStack() as stack:
        for k in {layer for layer in layers if layer >= 0}:
            handle = (
                blocks[0].register_forward_pre_hook(lambda _module, inputs: seen.__setitem__(0, inputs[0]))
                if k == 0
                else blocks[k - 1].register_forward_hook(lambda _module, _inputs, output, k=k: seen.__setitem__(k, output))
            )
            stack.callback(handle.remove)
        encoded = model.encode(batch)
    size = encoded.tokens.shape[1:4]
    parts = []
    for layer in layers:
        if layer == -1:
            parts.append(encoded.places())
            continue
        tokens = torch.unflatten(seen[layer][:, encoded.prefix.shape[1] :], 1, size)
        parts.append(F.layer_norm(Encoded(tokens, encoded.prefix, encoded.present).places(), tokens.shape[-1:]))
    return torch.cat(parts, dim=-1)
