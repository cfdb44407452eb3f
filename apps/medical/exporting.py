"""Segmentation networks as exported programs, and exported programs in the place of networks."""

import json
import logging
from dataclasses import asdict
from pathlib import Path

from torch import nn

from ...core.engines import EngineModule, EngineName, open_exported
from ...core.export import Exportable
from .model import Segmenter
from .models import open_segmenter
from .networks import NETWORKS, AnySize, FirstOutput, NetworkConfig, needs_of
from .plan import plan_from_dict
from .weights import MergingOrder

logger = logging.getLogger(__name__)

APP = "medical"
_TRACED = 6  # times the multiple more than the smallest size: there even the coarsest grid has several windows


def exportable(path: Path, plan: str | None = None, merging_order: MergingOrder | None = None) -> Exportable:
    """Return a network as it is exported: prepared windows of volumes to logits.

    Raises:
        FileNotFoundError: if there is no such file or plan.
        ValueError: if it is no segmenter, or its plan is missing.
    """
    segmenter = open_segmenter(path, plan, merging_order)
    axes = len(segmenter.plan.roi)
    needs = needs_of(segmenter.config, axes=axes, roi=segmenter.plan.roi)
    network = segmenter.network
    inner: nn.Module = network.network if isinstance(network, AnySize) else network
    plain = segmenter.plan
    fixed = needs.padded(plain.roi) if NETWORKS[segmenter.config.name].exported_for_roi else needs.fixed
    if fixed is not None:
        told = " x ".join(map(str, fixed))
        logger.info("%s is exported for windows of %s, which `geovit segment` moves over images of any size",
                    segmenter.config.name, told)  # fmt: skip
    smallest = fixed or (needs.multiple * (2 if needs.coarsest > 1 else 1),) * axes
    return Exportable(
        module=FirstOutput(inner).eval().requires_grad_(False),
        channels=len(plain.channels),
        multiple=(0,) * axes if fixed is not None else (needs.multiple,) * axes,
        smallest=tuple(max(n, 2) for n in smallest),
        scale=1,
        app=APP,
        model=segmenter.config.name,
        about=json.loads(
            json.dumps({"plan": plain.to_dict(), "network": asdict(segmenter.config), "facts": dict(segmenter.facts)})
        ),
        meaning=("a window of the images as the plan prepares them", "logits of background and classes, or of regions"),
        traced=_TRACED,
        single=fixed is not None,
    )


def exported_segmenter(path: Path, engine: EngineName | None) -> Segmenter:
    """Load an exported network with its plan; errors as ``open_exported``."""
    exported = open_exported(path, engine=engine, app=APP)
    about = exported.metadata["about"]
    facts = {**about["facts"], "engine": exported.name}
    config = NetworkConfig(**about["network"])
    return Segmenter(network=EngineModule(exported).eval(), config=config, plan=plan_from_dict(about["plan"]), facts=facts)
