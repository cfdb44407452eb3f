"""The layouts in which Swin UNETR's weights are published, by the names of their tensors."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Holds = Literal["network", "encoder", "network without head"]

_ANCHOR = "patch_embed.proj.weight"
_SWIN = "swinViT."
_HEAD = "out.conv.conv.weight"
_FC = (r"\.mlp\.fc([12])\.", r".mlp.linear\1.")
# Heads of the pre-training tasks (Tang et al. 2022, section 3), which no segmentation has.
_TASKS = r"^(rotation_(pre|head)|contrastive_(pre|head)|conv)\."
# Never used: MONAI made these tensors before release 0.9, and its networks do not read them.
_UNUSED = r"^(swinViT\.norm\.|encoder(2|3|4|10)\.layer\.(conv3|norm3)\.)"
_MASKING = r"^encoder\.(mask_token$|norm\.|head\.|layers\.)"  # of the autoencoder, and its second name for the stages


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A state dict under MONAI's names, and what it was.

    Args:
        name: of the layout, for users.
        holds: what of the network is there.
        state: tensors by the names of MONAI's ``SwinUNETR``.
        original: the name in the file of each of them.
        dropped: tensors of the file that the network has no place for, by their names there.
        legacy: why the layout itself tells that patches are merged in the legacy order; None if it does not.
    """

    name: str
    holds: Holds
    state: Mapping[str, Tensor]
    original: Mapping[str, str]
    dropped: tuple[str, ...]
    legacy: str | None = None


def recognise(state: Mapping[str, Tensor], name: str) -> Layout:
    """Tell the layout of a state dict and rename its tensors.

    Known are MONAI's, with any prefix before its names and with tensors that only MONAI before 0.9 had; ``model_swinvit.pt`` and
    what newer code of the same pre-training writes (Tang et al. 2022); and ``ssl_pretrained_weights.pth`` of Disruptive
    Autoencoders (Valanarasu et al. 2023).

    Args:
        state: tensors by name.
        name: of their source, for errors.

    Raises:
        ValueError: if it is none of them, or two tensors would have one name.
    """
    spelled = {key.replace("swin_vit.", _SWIN): key for key in state}
    anchors = [key for key in spelled if key == _ANCHOR or key.endswith(f".{_ANCHOR}")]
    if len(anchors) != 1:
        told = "no" if not anchors else "more than one"
        raise ValueError(
            f"{name} is no Swin UNETR: {told} tensor is named ...{_ANCHOR}; other networks of MONAI are loaded by MONAI itself"
        )
    root = anchors[0].removesuffix(_ANCHOR)
    if root.endswith(_SWIN):
        prefix = root.removesuffix(_SWIN)
        found = {key.removeprefix(prefix): old for key, old in spelled.items()}
        holds: Holds = "network" if _HEAD in found else "encoder"
        layout, rules = ("MONAI" if holds == "network" else "an encoder alone"), []
    elif root.endswith("encoder."):
        prefix = root.removesuffix("encoder.")
        found = {key.removeprefix(prefix): old for key, old in spelled.items()}
        layout, rules = (
            "ssl_pretrained_weights.pth",
            [
                (r"^encoder\.(layers\d+)\.0\.0\.", rf"{_SWIN}\1.0."),
                (r"^encoder\.patch_embed\.", f"{_SWIN}patch_embed."),
            ],
        )
        holds = "network without head" if any(key.startswith("decoder1.") for key in found) else "encoder"
    else:
        found = {key.removeprefix(root): old for key, old in spelled.items()}
        layout, holds = "model_swinvit.pt", "encoder"
        rules = [(r"^(patch_embed|layers\d+c?|norm)\.", rf"{_SWIN}\1.")]

    unused = _UNUSED if holds == "network" else f"{_UNUSED}|{_TASKS}|{_MASKING}"
    unused = f"{unused}|^out\\." if holds == "network without head" else unused
    renamed: dict[str, str] = {}
    dropped = []
    for key, old in found.items():
        new = key
        for pattern, replacement in (*rules, _FC):
            new = re.sub(pattern, replacement, new)
        if re.search(unused, new):
            dropped.append(old)
        elif new in renamed:
            raise ValueError(f"{name}: {old} and {renamed[new]} would both be {new}")
        else:
            renamed[new] = old
    return Layout(
        name=layout,
        holds=holds,
        state={new: state[old] for new, old in renamed.items()},
        original=renamed,
        dropped=tuple(dropped),
        legacy=_told_by(layout, found),
    )


def _told_by(layout: str, found: Mapping[str, str]) -> str | None:
    if layout == "ssl_pretrained_weights.pth":
        return "the code of Disruptive Autoencoders knows no other"
    if layout == "model_swinvit.pt" and any(".mlp.fc1." in key for key in found):
        return "this layout is of the pre-training code of 2022"
    if any(re.search(_UNUSED, key) for key in found):
        return "it has tensors that only MONAI before 0.9 (2022) made"
    return None
