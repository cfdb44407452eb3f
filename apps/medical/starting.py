"""Weights that a training starts from."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...core.weights import load_state
from .adaptation import start_from
from .model import Segmenter, is_segmenter, load_segmenter
from .networks import NetworkConfig
from .swin_unetr import SwinUNETR
from .weights import SwinCheckpoint, load_encoder, read_swin_checkpoint

logger = logging.getLogger(__name__)

_OF_PLAN = ("in_channels", "out_channels", "spatial_dims")
_ORDER = "merging_order"


@dataclass(frozen=True)
class Start:
    """Weights to start from, and the network that they are for; without any, random ones.

    Args:
        network: what is trained.
        source: the file.
        weights: a segmenter of ``geovit fit medical``, or a checkpoint of a Swin UNETR.
    """

    network: NetworkConfig
    source: Path | None = None
    weights: Segmenter | SwinCheckpoint | None = None

    def begin(self, segmenter: Segmenter) -> None:
        """Copy the weights into a segmenter's network, as far as they fit, and log what came from where.

        Raises:
            ValueError: if they are those of another network.
        """
        if self.weights is None:
            return
        assert self.source is not None
        if isinstance(self.weights, SwinCheckpoint):
            if not isinstance(segmenter.network, SwinUNETR):
                raise ValueError(f"{self.source} is of a Swin UNETR: the network {self.network.name} does not fit")  # noqa: TRY004 - a user's mistake
            load_encoder(segmenter.network, self.weights)
            return
        old, new = ([target.name for target in plan.targets] for plan in (self.weights.plan, segmenter.plan))
        if old != new:
            logger.info("%s segments %s; this training %s", self.source, ", ".join(old), ", ".join(new))
        start_from(segmenter.network, self.weights.network.state_dict(), self.source)


def read_start(network: NetworkConfig | None, source: Path | None) -> Start:
    """Read weights to start from, and settle the network: what was asked for, else that of the weights, else the default.

    Raises:
        FileNotFoundError: if there is no file to start from.
        ValueError: if it is neither a segmenter nor a checkpoint of a Swin UNETR, or was trained with another merging order than
            asked for, or one that it does not tell.
    """
    if source is None:
        return Start(network or NetworkConfig())
    asked = None if network is None else network.arguments.get(_ORDER)
    if source.suffix == ".safetensors" and is_segmenter(load_state(source)[1]):
        segmenter = load_segmenter(source)
        return Start(_settled(network, segmenter.config, source), source, segmenter)
    checkpoint = read_swin_checkpoint(source, merging_order=asked)
    own: Mapping[str, Any] = {key: value for key, value in checkpoint.arguments.items() if key not in _OF_PLAN}
    return Start(_settled(network, NetworkConfig(arguments=own), source), source, checkpoint)


def _settled(network: NetworkConfig | None, own: NetworkConfig, source: Path) -> NetworkConfig:
    """Return the network asked for with the merging order of the weights, on which their meaning depends; else their own."""
    if network is None:
        return own
    order = own.arguments.get(_ORDER)
    if network.name != own.name or order is None:
        return network
    if network.arguments.get(_ORDER, order) != order:
        raise ValueError(f"{source} was trained with merging_order {order!r}, not {network.arguments[_ORDER]!r}")
    return replace(network, arguments={**network.arguments, _ORDER: order})
