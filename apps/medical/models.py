"""The model of a command: a file of ours, or a checkpoint of MONAI with a plan."""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from ...core.engines import EngineName, is_exported
from ...core.weights import load_state
from .model import Segmenter, is_segmenter, load_segmenter
from .networks import NetworkConfig
from .plan import Plan, plan_from_dict
from .weights import MergingOrder, load_swin_unetr
from .weights.loading import LoadedSwinUNETR

_log = logging.getLogger(__name__)

_FOLDER = Path(__file__).parents[2] / "configs" / "medical" / "plans"
_BEST = "best.safetensors"  # which geovit fit medical writes into its folder


@dataclass(frozen=True, kw_only=True)
class NamedPlan:
    """A plan, and what outputs a checkpoint has that was trained elsewhere.

    Args:
        plan: of images and classes.
        outputs: names of the targets in the order of the checkpoint's outputs, if that is another one.
    """

    plan: Plan
    outputs: tuple[str, ...] | None = None


def plan_names() -> list[str]:
    """Return the names of the plans of published checkpoints."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def read_plan(name: str | os.PathLike[str]) -> NamedPlan:
    """Read a plan by its name, or from a YAML or JSON file: ``Plan.to_dict``, perhaps under "plan" with "outputs" beside it.

    Raises:
        FileNotFoundError: if there is neither such a name nor such a file.
        ValueError: if it is no plan.
    """
    path = _FOLDER / f"{name}.yaml" if str(name) in plan_names() else Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"no plan {name}: expected a file, or one of {', '.join(plan_names())}")
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML or JSON file ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no plan of a segmentation")  # noqa: TRY004 - a user's mistake
    outputs = content.get("outputs") if "plan" in content else None
    try:
        plan = plan_from_dict(content.get("plan", content))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    names = [target.name for target in plan.targets]
    if outputs is not None and sorted(outputs) != sorted(names):
        raise ValueError(f"{path}: outputs are {outputs}, expected the names of the targets: {', '.join(names)}")
    return NamedPlan(plan=plan, outputs=None if outputs is None else tuple(outputs))


def model_file(path: str | os.PathLike[str]) -> Path:
    """Return the file of a model: the file itself, or the best weights in the folder of a training.

    Raises:
        FileNotFoundError: if there is none.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / _BEST).is_file():
            raise FileNotFoundError(f"{path} has no {_BEST}: expected a model, or the folder that geovit fit medical wrote")
        return path / _BEST
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    return path


def open_segmenter(
    path: str | os.PathLike[str],
    plan: Plan | NamedPlan | str | os.PathLike[str] | None = None,
    merging_order: MergingOrder | None = None,
    engine: EngineName | None = None,
) -> Segmenter:
    """Open what segments: a model of ``geovit fit medical``, or a checkpoint of MONAI's Swin UNETR with a plan.

    Args:
        path: the file, or the folder of a training.
        plan: of a checkpoint: a name ("btcv", "brats21"), a file, or a plan. A model of ours has its own.
        merging_order: of a checkpoint that does not tell it: see ``read_swin_checkpoint``.
        engine: that runs a file of `geovit export`: "onnx" or "openvino". Default: the one that the file is made for.

    Returns:
        The segmenter, in evaluation mode. ``facts`` of a checkpoint tell what was loaded and how its merging order is known.

    Raises:
        FileNotFoundError: if there is no such file or plan.
        ValueError: if the file is no model, a plan is missing or does not fit, or the merging order is not known.
    """
    path = model_file(path)
    if engine is not None or is_exported(path):
        from .exporting import exported_segmenter

        if plan is not None or merging_order is not None:
            raise ValueError(f"{path} is exported, and tells its plan and merging order: give neither")
        return exported_segmenter(path, engine)
    metadata = load_state(path)[1] if path.suffix == ".safetensors" else {}
    if is_segmenter(metadata):
        if plan is not None or merging_order is not None:
            raise ValueError(f"{path} is a model of geovit fit medical, which tells its plan and merging order: give neither")
        return load_segmenter(path)
    if metadata.get("format", "").startswith("geovit"):  # of another app
        raise ValueError(f"{path} is no model of geovit fit medical, but holds {metadata['format']!r}")
    if plan is not None and not isinstance(plan, Plan | NamedPlan):
        plan = read_plan(plan)  # before the checkpoint, which takes longer
    loaded = load_swin_unetr(path, merging_order=merging_order)
    return segmenter_of(loaded, plan, name=str(path))


def segmenter_of(
    loaded: LoadedSwinUNETR, plan: Plan | NamedPlan | str | os.PathLike[str] | None, *, name: str = "checkpoint"
) -> Segmenter:
    """Join a loaded network and a plan; errors as ``open_segmenter``.

    The rows of the network's last convolution are brought into the order of the plan's targets, where those differ.
    """
    arguments = dict(loaded.checkpoint.arguments)
    channels, outputs, axes = (arguments.pop(key) for key in ("in_channels", "out_channels", "spatial_dims"))
    if plan is None:
        known = [n for n in plan_names() if _fits(read_plan(n).plan, channels, outputs, axes)]
        hint = f", {' or '.join(known)} would fit" if known else ""
        raise ValueError(
            f"{name} tells no plan, that is, how images are prepared and what the {outputs} outputs of {channels} channels mean: "
            f"give plan, a file or {', '.join(plan_names())}{hint}"
        )
    named = plan if isinstance(plan, NamedPlan) else NamedPlan(plan=plan) if isinstance(plan, Plan) else read_plan(plan)
    if not _fits(named.plan, channels, outputs, axes):
        wanted = f"{len(named.plan.channels)} channels, {named.plan.outputs} outputs and {len(named.plan.roi)} axes"
        raise ValueError(f"{name} has {channels} channels, {outputs} outputs and {axes} axes, the plan {wanted}")
    if named.outputs is not None:
        _reorder(loaded, named.plan, named.outputs)
        _log.info("%s: outputs %s brought into the plan's order", name, ", ".join(named.outputs))
    facts = {
        "source": Path(name).name,
        "coverage": str(loaded.coverage),
        "merging_order": f"{loaded.checkpoint.merging_order}: {loaded.checkpoint.because}",
    }
    config = NetworkConfig(name="swin_unetr", arguments=json.loads(json.dumps(arguments)))
    return Segmenter(network=loaded.network, config=config, plan=named.plan, facts=facts)


def _fits(plan: Plan, channels: int, outputs: int, axes: int) -> bool:
    return (len(plan.channels), plan.outputs, len(plan.roi)) == (channels, outputs, axes)


@torch.no_grad()
def _reorder(loaded: LoadedSwinUNETR, plan: Plan, outputs: Sequence[str]) -> None:
    background = [] if plan.regions else [0]
    rows = [*background, *(outputs.index(target.name) + len(background) for target in plan.targets)]
    for parameter in loaded.network.out.parameters():
        parameter.copy_(parameter[rows])
