"""In which order a checkpoint's network merges patches: told by the file, by whoever loads it, or not at all.

MONAI changed the order in January 2025 (pull request 8285, release 1.5) without a mark in the weights, whose shapes are the same:
a network of the other order loads them and is wrong. So the order is never assumed.
"""

import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....core.weights.checkpoint import read_checkpoint, unwrap
from ..swin_encoder import MergingOrder
from .arguments import infer_arguments
from .layouts import Layout, recognise

__all__ = ["MergingOrder", "SwinCheckpoint", "read_swin_checkpoint"]

_log = logging.getLogger(__name__)

# Published files whose hash their authors print.
_PUBLISHED = {
    "50dd67a01b28a1d5487fd9ac27e682fb": "the model of MONAI's bundle swin_unetr_btcv_segmentation",
    "c3564f40a6a051d3753a6d8fae5cc8eaf21ce8d82a9a3baf80748d15664055e8": "ssl_pretrained_weights.pth of Disruptive Autoencoders",
}
_ORDERS = ("legacy", "fixed")
_CHOICES = "'legacy' for weights trained with MONAI before 1.5 (2025), as all published ones are, or 'fixed' for those since"


@dataclass(frozen=True, kw_only=True)
class SwinCheckpoint:
    """A checkpoint that was read and understood.

    Args:
        name: of the file, for messages.
        layout: what it holds, by MONAI's names.
        arguments: of ``SwinUNETR``: those that shapes tell, and those that the file or whoever loads it told.
        merging_order: None where it makes no difference: in two dimensions, and with another ``downsample``.
        because: what the order is known from.
    """

    name: str
    layout: Layout
    arguments: Mapping[str, Any]
    merging_order: MergingOrder | None
    because: str


def read_swin_checkpoint(
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    merging_order: MergingOrder | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> SwinCheckpoint:
    """Read a checkpoint of any known layout, and find out all that its network needs.

    The order in which patches are merged is that of our own files' metadata; of published files, which are recognised by their
    hash; legacy for layouts that only older code has written, and for files that torch before 2.1 wrote, on which MONAI 1.5 does
    not run. Everything else needs ``merging_order``, which comes first in any case.

    Args:
        source: a file of ``torch.save`` or safetensors, or a state dict, perhaps wrapped as training programs do it.
        merging_order: "legacy" or "fixed", where the file does not tell.
        arguments: of ``SwinUNETR`` that shapes do not tell, such as ``normalize`` and ``downsample``, or rates of dropout.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no checkpoint of a Swin UNETR, or its merging order is not known.
    """
    if merging_order not in (None, *_ORDERS):
        raise ValueError(f"merging_order is {merging_order!r}, allowed are {_CHOICES}")
    if isinstance(source, Mapping):
        name, path = "state dict", None
        state, metadata = unwrap(source, name), dict[str, str]()
    else:
        name, path = str(source), Path(source)
        state, metadata = read_checkpoint(path)
    layout = recognise(state, name)
    stored = _stored_arguments(metadata)
    known = {**infer_arguments(layout.state, name), **stored, **(arguments or {})}
    told = stored.get("merging_order")
    if known["spatial_dims"] == 2 or known.get("downsample", "merging") != "merging":
        known.pop("merging_order", None)
        return SwinCheckpoint(
            name=name, layout=layout, arguments=known, merging_order=None, because="it makes no difference here"
        )
    found, because = (told, "the file says so") if told in _ORDERS else _evidence(path, layout)
    if merging_order is None and found is None:
        raise ValueError(
            f"{name} does not tell in which order its network merges patches, and the wrong one gives wrong results without an "
            f"error: give merging_order, {_CHOICES}"
        )
    if merging_order is not None:
        if found not in (None, merging_order):
            _log.warning("%s: merging_order is %r as given, though this looks like %r: %s", name, merging_order, found, because)
        found, because = merging_order, "it was given"
    else:
        _log.info("%s: merging_order is %r: %s", name, found, because)
    return SwinCheckpoint(
        name=name, layout=layout, arguments={**known, "merging_order": found}, merging_order=found, because=because
    )


def _stored_arguments(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the constructor's arguments that a file of ours tells: of ``save_for_monai``, or a whole segmenter."""
    if "swin_unetr" in metadata:
        told: dict[str, Any] = json.loads(metadata["swin_unetr"])
        return told
    if "segmenter" in metadata:
        network = json.loads(metadata["segmenter"])["network"]
        return dict(network["arguments"]) if network["name"] == "swin_unetr" else {}
    return {}


def _evidence(path: Path | None, layout: Layout) -> tuple[MergingOrder | None, str]:
    if layout.legacy is not None:
        return "legacy", layout.legacy
    if path is None or path.suffix == ".safetensors":
        return None, ""
    for algorithm in ("md5", "sha256"):
        with path.open("rb") as file:
            if (digest := _digest(file, algorithm)) in _PUBLISHED:
                return "legacy", f"it is {_PUBLISHED[digest]}"
    if _before_torch_2_1(path):
        return (
            "legacy",
            "torch before 2.1 (2023) wrote it, and MONAI 1.5, the first with the fixed order, needs a newer torch",
        )
    return None, ""


def _digest(file: Any, algorithm: str) -> str:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _before_torch_2_1(path: Path) -> bool:
    """Whether the record of the byte order is missing that torch.save writes since 2.1 (pytorch pull request 94503)."""
    if not zipfile.is_zipfile(path):
        return True  # the format before torch 1.6
    with zipfile.ZipFile(path) as archive:
        return not any(name.endswith("/byteorder") for name in archive.namelist())
