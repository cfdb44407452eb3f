"""Checkpoints into our Swin UNETR: all of what is there, or an error."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ....core.weights.load import Coverage, load_into
from ..swin_unetr import SwinUNETR
from .provenance import MergingOrder, SwinCheckpoint, read_swin_checkpoint

_log = logging.getLogger(__name__)

_COMPUTED = re.compile(r"attn\.relative_position_index$")


@dataclass(frozen=True, kw_only=True)
class LoadedSwinUNETR:
    """A network with its weights, what was loaded, and what it was read from."""

    network: SwinUNETR
    coverage: Coverage
    checkpoint: SwinCheckpoint


def load_swin_unetr(
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    merging_order: MergingOrder | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> LoadedSwinUNETR:
    """Build the Swin UNETR that a checkpoint belongs to, and load all of it, in evaluation mode.

    MONAI's state dicts, plain or wrapped, the research checkpoints for BTCV and BraTS 2021, the model of a MONAI bundle, and our
    own files. Widths, depths, heads, windows and options follow from names and shapes.

    Args:
        source: a file, or a state dict.
        merging_order: "legacy" or "fixed", where the checkpoint does not tell: see ``read_swin_checkpoint``.
        arguments: of ``SwinUNETR`` that shapes do not tell.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no whole Swin UNETR, a tensor is missing, unexpected or of another shape, or its order is not known.
    """
    checkpoint = read_swin_checkpoint(source, merging_order=merging_order, arguments=arguments)
    layout = checkpoint.layout
    if layout.holds != "network":
        raise ValueError(
            f"{checkpoint.name} holds weights of pre-training ({layout.name}), which do not segment: start training from them "
            "(load_encoder)"
        )
    network = SwinUNETR(**checkpoint.arguments).eval()
    coverage = _load(network, checkpoint, untouched=())
    _log.info("%s: %s", checkpoint.name, coverage)
    return LoadedSwinUNETR(network=network, coverage=coverage, checkpoint=checkpoint)


def load_encoder(
    network: SwinUNETR,
    source: str | os.PathLike[str] | Mapping[str, Any] | SwinCheckpoint,
    *,
    merging_order: MergingOrder | None = None,
) -> Coverage:
    """Load pre-trained weights into a network that is to be trained; the rest stays as it is, which the coverage tells.

    Of ``model_swinvit.pt`` and other encoders the encoder is loaded, of Disruptive Autoencoders all but the last convolution, and
    of a whole Swin UNETR all, but the last convolution if it has another number of outputs.

    Args:
        network: built with the merging order of the weights, see ``read_swin_checkpoint``; is changed in place.
        source: a file, a state dict, or what ``read_swin_checkpoint`` made of one.
        merging_order: of a file or state dict that does not tell it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if weights are missing, unexpected or of another shape, or the network merges patches in another order.
    """
    checkpoint = source if isinstance(source, SwinCheckpoint) else read_swin_checkpoint(source, merging_order=merging_order)
    if checkpoint.merging_order not in (None, network.merging_order):
        raise ValueError(
            f"{checkpoint.name} was trained with merging_order {checkpoint.merging_order!r} ({checkpoint.because}), the network "
            f"has {network.merging_order!r}: build it with that of the weights"
        )
    holds, own = checkpoint.layout.holds, network.state_dict()
    if holds == "encoder":
        untouched = [key for key in own if not key.startswith("swinViT.")]
    elif holds == "network without head" or len(own["out.conv.conv.weight"]) != checkpoint.arguments.get("out_channels"):
        untouched = [key for key in own if key.startswith("out.")]
    else:
        untouched = []
    coverage = _load(network, checkpoint, untouched=untouched)
    _log.info("%s: %s", checkpoint.name, coverage)
    return coverage


def _load(network: SwinUNETR, checkpoint: SwinCheckpoint, *, untouched: Sequence[str]) -> Coverage:
    layout, own = checkpoint.layout, network.state_dict()
    buffers = {key: tensor for key, tensor in layout.state.items() if _COMPUTED.search(key)}
    for key, tensor in buffers.items():
        if key in own and not torch.equal(tensor.long().cpu(), own[key].cpu()):
            raise ValueError(f"{checkpoint.name}: {key} is not that of windows of {checkpoint.arguments['window_size']} tokens")
    left = set(untouched)
    given = {key: t for key, t in layout.state.items() if key not in left and not (key in buffers and key in own)}
    kept = {key: t for key, t in own.items() if key in left or (_COMPUTED.search(key) and key not in given)}
    try:
        load_into(network, {**kept, **given})
    except ValueError as error:
        raise ValueError(f"{checkpoint.name}: {error}") from error
    return Coverage(
        tensors=len(given),
        elements=sum(tensor.numel() for tensor in given.values()),
        renamed=sum(layout.original[key] != key for key in given),
        verified=tuple(sorted(buffers)),
        dropped=(*layout.dropped, *(layout.original[key] for key in layout.state if key in left)),
        untouched=tuple(untouched),
    )
