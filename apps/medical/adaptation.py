"""A trained segmenter for few cases: low-rank adapters on its encoder, and weights to start from."""

import copy
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ...core.layers.lora import add_lora, load_lora, lora_state_dict, merge_lora
from ...core.weights import load_state, save_module
from .networks import AnySize

logger = logging.getLogger(__name__)

_ADAPTERS, _TRAINED = "adapter/", "trained/"
_FORMAT = "geovit medical adapters 1"


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Low-rank adapters on a Swin UNETR's encoder (``swinViT``), whose own weights are frozen.

    Args:
        rank: of the adapters; 0 trains the whole network.
        alpha: their scale times the rank; the default is the rank.
        dropout: of what goes into them.
        targets: names of the linear layers that have one: of attention and MLP.
        decoder: whether what follows the encoder is trained in full; else its output layer alone is.
    """

    rank: int = 0
    alpha: float | None = None
    dropout: float = 0.0
    targets: Sequence[str] = ("qkv", "proj", "linear1", "linear2")
    decoder: bool = True

    def __post_init__(self) -> None:
        """Refuse what is no rank or share."""
        if self.rank < 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                f"LoRA: rank {self.rank}, dropout {self.dropout}: allowed are ranks from 0 on, dropouts from 0 to below 1"
            )


def adapt(network: nn.Module, config: LoRAConfig, encoder: str = "swinViT", head: str = "out") -> int:
    """Put adapters on the encoder of a network in place and freeze it; return the number of adapted layers.

    Raises:
        ValueError: if the network has no such part, or no such layers in it.
    """
    if isinstance(network, AnySize):
        network = network.network
    parts = [name for name, _ in network.named_children()]
    if encoder not in parts:
        raise ValueError(f"LoRA adapts the part {encoder} of a Swin UNETR: {type(network).__name__} has {', '.join(parts)}")
    add_lora(
        network.get_submodule(encoder),
        rank=config.rank,
        alpha=config.alpha,
        dropout=config.dropout,
        targets=tuple(config.targets),
    )
    layers = len({name.rpartition(".")[0] for name in lora_state_dict(network)})
    for part in parts:
        if part not in (encoder, head) and not config.decoder:
            network.get_submodule(part).requires_grad_(False)
    return layers


def merged(network: nn.Module) -> nn.Module:
    """Return a copy of a network with its adapters folded into plain layers; the network itself if it has none."""
    if not lora_state_dict(network):
        return network
    plain = copy.deepcopy(network)
    merge_lora(plain)
    return plain


def save_adapters(path: str | os.PathLike[str], network: nn.Module) -> None:
    """Write adapters, and what else was trained beside them, without the frozen weights."""
    adapters = lora_state_dict(network)
    others = {
        name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad and name not in adapters
    }
    state = {f"{_ADAPTERS}{k}": v for k, v in adapters.items()} | {f"{_TRAINED}{k}": v for k, v in others.items()}
    save_module(path, state, {"format": _FORMAT})


@torch.no_grad()
def load_adapters(path: str | os.PathLike[str], network: nn.Module) -> int:
    """Put what ``save_adapters`` wrote on a network with the weights that training started from; return the adapted layers.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no adapters, or ones for another network.
    """
    state, metadata = load_state(path)
    if metadata.get("format") != _FORMAT:
        raise ValueError(f"{path} holds no adapters of geovit fit medical")
    trained = {k.removeprefix(_TRAINED): v for k, v in state.items() if k.startswith(_TRAINED)}
    own = dict(network.named_parameters())
    if strange := [k for k, v in trained.items() if k not in own or own[k].shape != v.shape]:
        raise ValueError(f"{path} is of another network: {len(strange)} tensors do not fit, {strange[0]} among them")
    adapted = load_lora(network, {k.removeprefix(_ADAPTERS): v for k, v in state.items() if k.startswith(_ADAPTERS)})
    for name, tensor in trained.items():
        own[name].copy_(tensor)
    return adapted


def start_from(network: nn.Module, state: Mapping[str, Tensor], source: str | Path, least: float = 0.5) -> None:
    """Copy all tensors that fit by name and shape into a network; others, such as a head for other classes, start at random.

    Raises:
        ValueError: if less than a share of the network's weights comes from there.
    """
    own = network.state_dict()
    fitting = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    size = {k: v.numel() for k, v in own.items() if v.is_floating_point()}  # no index tables, which always fit
    share = sum(size[k] for k in fitting if k in size) / sum(size.values())
    if share < least:
        raise ValueError(f"{source} holds {share:.0%} of the weights of this {type(network).__name__}: expected {least:.0%}")
    network.load_state_dict(fitting, strict=False)
    fresh, unused = [k for k in own if k not in fitting], [k for k in state if k not in fitting]
    logger.info("%d of %d tensors (%.1f%% of the weights) come from %s", len(fitting), len(own), 100 * share, source)
    if fresh:
        logger.info("%d tensors start at random: %s", len(fresh), ", ".join(fresh))
    if unused:
        logger.info(
            "%d tensors of the file are not used: %s", len(unused), ", ".join(unused[:5]) + (", ..." if unused[5:] else "")
        )
