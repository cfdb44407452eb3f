"""A trained segmentation network with its plan, saved as one safetensors file."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ... import __version__
from ...core.weights import load_into, load_state, save_module
from .networks import NETWORKS, NetworkConfig, build_network
from .plan import Plan, plan_from_dict

_FORMAT = "geovit medical segmenter 1"


@dataclass(frozen=True, kw_only=True)
class Segmenter:
    """A network, how it is built, what it is given and answers.

    Args:
        network: (batch, channels, *size) to logits (batch, ``plan.outputs``, *size).
        config: of the network.
        plan: of images and classes.
        facts: what else the file tells, such as the fingerprint of the training cases and the scores in validation; as JSON.
    """

    network: nn.Module
    config: NetworkConfig
    plan: Plan
    facts: Mapping[str, Any] = field(default_factory=dict)


def new_segmenter(config: NetworkConfig, plan: Plan) -> Segmenter:
    """Build a segmenter with random weights; its config tells the defaults too, which may be others one day."""
    axes = len(plan.roi)
    complete = NETWORKS[config.name].complete(config.name, config.arguments, axes, plan.roi)
    config = NetworkConfig(name=config.name, arguments=complete)
    network = build_network(config, in_channels=len(plan.channels), out_channels=plan.outputs, axes=axes, roi=plan.roi)
    return Segmenter(network=network, config=config, plan=plan)


def save_segmenter(path: str | os.PathLike[str], segmenter: Segmenter) -> None:
    """Write weights and plan to a file, whole or not at all."""
    network = segmenter.config.to_dict()
    if (order := getattr(segmenter.network, "merging_order", None)) is not None:
        network["arguments"] = {**network["arguments"], "merging_order": order}  # that of the weights, whatever the config says
    content = {
        "network": network,
        "plan": segmenter.plan.to_dict(),
        "facts": dict(segmenter.facts),
    }
    save_module(path, segmenter.network, {"format": _FORMAT, "geovit": __version__, "segmenter": json.dumps(content)})


def is_segmenter(metadata: Mapping[str, str]) -> bool:
    """Whether a file with this metadata is a segmenter."""
    return metadata.get("format") == _FORMAT


def load_segmenter(path: str | os.PathLike[str]) -> Segmenter:
    """Read what ``save_segmenter`` wrote, in evaluation mode.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no segmenter, or its weights do not fit.
    """
    path = Path(path)
    state, metadata = load_state(path)
    if not is_segmenter(metadata):
        raise ValueError(f"{path} is no model of geovit fit medical")
    content = json.loads(metadata["segmenter"])
    plan = plan_from_dict(content["plan"])
    segmenter = new_segmenter(NetworkConfig(**content["network"]), plan)
    load_into(segmenter.network, state)
    segmenter.network.eval()
    return Segmenter(network=segmenter.network, config=segmenter.config, plan=plan, facts=content["facts"])
