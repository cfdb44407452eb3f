"""Our networks as files that MONAI loads."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .... import __version__
from ....core.weights.store import save_module
from ....datasets.writing import atomic
from ..networks import AnySize
from ..swin_encoder import Merging
from ..swin_unetr import SwinUNETR
from .arguments import infer_arguments

_log = logging.getLogger(__name__)


def save_for_monai(path: str | os.PathLike[str], network: nn.Module) -> None:
    """Write a network's weights so that MONAI's class loads them with ``strict=True``, whole or not at all.

    A ``.pt`` file holds them under "state_dict", a ``.safetensors`` file as they are. Either tells the constructor's arguments
    and the merging order as metadata, which MONAI does not read and we do. A network of the legacy order computes what MONAI
    before 1.5 does; newer ones do so if they are built with ``SwinUNETR(..., downsample=legacy_merging)``.

    Args:
        path: to write, .pt or .safetensors.
        network: a ``SwinUNETR``, or one of MONAI's own from ``build_network``.

    Raises:
        ValueError: if MONAI has no such network, or the suffix is another one.
        FileNotFoundError: if there is no such folder.
    """
    path = Path(path)
    if path.suffix not in (".pt", ".safetensors"):
        raise ValueError(f"{path}: MONAI's weights are written as .pt or .safetensors")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no such folder: {path.parent}")
    network = network.network if isinstance(network, AnySize) else network
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    metadata = {"geovit": __version__}
    if isinstance(network, SwinUNETR):
        order = network.merging_order
        arguments = {**infer_arguments(state, "the network"), "normalize": network.normalize, "merging_order": order}
        with torch.device("meta"):
            plain = SwinUNETR(**arguments)
        if plain.state_dict().keys() != state.keys():
            raise ValueError("the network has tensors that MONAI's has not: merge its adapters before it is written for MONAI")
        metadata |= {"format": "swin_unetr", "swin_unetr": json.dumps(arguments)}
        if order == "legacy" and network.spatial_dims == 3:
            _log.warning(
                "%s merges patches in the legacy order: MONAI 1.5 and newer compute something else with it, unless "
                "downsample=geovit.apps.medical.weights.legacy_merging is given",
                path,
            )
    elif not type(network).__module__.startswith("monai."):
        raise ValueError(f"MONAI has no {type(network).__name__}: only SwinUNETR and MONAI's own networks are written for it")
    if path.suffix == ".safetensors":
        save_module(path, state, metadata)
        return
    with atomic(path, overwrite=True) as temporary:
        torch.save({"state_dict": state, "metadata": metadata}, temporary)


def legacy_merging(dim: int, norm_layer: Callable[[int], nn.Module] = nn.LayerNorm, spatial_dims: int = 3) -> Any:
    """Make the patch merging of MONAI before 1.5, for MONAI's ``SwinUNETR(..., downsample=legacy_merging)``.

    Args:
        dim: channels of a token.
        norm_layer: makes the norm of the joined tokens.
        spatial_dims: 2 or 3.
    """
    return Merging(dim, axes=spatial_dims, kind="merging", order="legacy", norm=norm_layer)
