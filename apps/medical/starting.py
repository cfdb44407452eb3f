"""Weights that a training starts from."""

import logging
from pathlib import Path

from ...core.weights import load_state
from .adaptation import start_from
from .model import Segmenter, load_segmenter
from .networks import NetworkConfig

logger = logging.getLogger(__name__)


def network_of(network: NetworkConfig | None, start: Path | None) -> NetworkConfig:
    """Return the network that was asked for, else that of a segmenter to start from, else the default.

    Raises:
        FileNotFoundError: if there is no file to start from.
        ValueError: if none was asked for, and the file does not tell.
    """
    if network is not None:
        return network
    if start is None:
        return NetworkConfig()
    if not _is_segmenter(start):
        raise ValueError(f"{start} does not tell its network: give its name and arguments")
    return load_segmenter(start).config


def begin(segmenter: Segmenter, start: Path) -> None:
    """Copy the weights of a file into a segmenter's network, as far as they fit, and log what came from where.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no checkpoint, or one of another network.
    """
    if not _is_segmenter(start):
        raise ValueError(f"{start} is no segmenter")
    begun = load_segmenter(start)
    if (old := [t.name for t in begun.plan.targets]) != (new := [t.name for t in segmenter.plan.targets]):
        logger.info("%s segments %s; this training %s", start, ", ".join(old), ", ".join(new))
    start_from(segmenter.network, begun.network.state_dict(), start)


def _is_segmenter(path: Path) -> bool:
    if path.suffix != ".safetensors":
        return False
    return load_state(path)[1].get("format", "").startswith("geovit medical segmenter")
