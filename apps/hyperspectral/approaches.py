"""How a scene is to be mapped: by a network fitted to labels, by one that was fitted before, or by groups of similar spectra."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ...core.engines import EngineName
from ...core.sensors.model import FoundationModel
from ...core.streaming.run import Job
from ...datasets import ClassInfo, Scene, atomic, default_color
from ...datasets.identity import content_of
from .clustering import GroupJob, cost_of_groups, find_groups
from .encoder_network import fingerprint
from .fitting import MODEL, Fitting
from .mapping import MapJob, cost_of
from .model import Classifier, load_classifier, match_bands
from .sampling import warn_if_far
from .working import Cost, Wanted

Keep = Callable[[str], Path]  # names to paths of what an unfinished run keeps


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """What is to be mapped, and by what.

    Args:
        scene: the image.
        wanted: of it.
        device: that computes.
        precision: of the networks.
    """

    scene: Scene
    wanted: Wanted
    device: torch.device
    precision: torch.dtype


@dataclass(frozen=True, kw_only=True, eq=False)
class Approach:
    """A way to map, and what is known of it before anything is fitted or mapped.

    Args:
        method: in a word, for the report.
        classes: of the map.
        cost: of its computing.
        bands: that it reads.
        names: of these, for a model.
        channels: that it makes of each pixel.
        halo: see ``working.Teller``.
        identity: what decides the result beside the scene and its area; JSON.
        device: that computes.
        first: what comes before the map, for ``--plan``; empty if nothing does.
        prepare: does what comes first, unless it was kept; returns the job and what the report says of it.
        rehearse: returns a job that takes as long, for ``--plan``; it may write into the folder given.
    """

    method: str
    classes: tuple[ClassInfo, ...]
    cost: Cost
    bands: int
    channels: int
    halo: int
    identity: Mapping[str, Any]
    device: torch.device
    names: tuple[str, ...] = ()
    first: str = ""
    prepare: Callable[[Keep], tuple[Job[Any], dict[str, Any]]]
    rehearse: Callable[[Path], Job[Any]]


def by_labels(
    target: Target, fitting: Fitting, *, base: FoundationModel | None, adapters: bool, seed: int, progress: bool
) -> Approach:
    """Fit a network to labels, and map with that."""
    recipe, untrained = fitting.recipe, fitting.untrained()
    cost = cost_of(untrained.to(target.device), device=target.device, precision=target.precision)

    def prepare(keep: Keep) -> tuple[Job[Any], dict[str, Any]]:
        facts = fitting.kept(
            keep, adapters=adapters, seed=seed, device=target.device, precision=target.precision, progress=progress
        )
        job = _job(target, keep(MODEL), None, range(target.scene.num_bands), cost)
        warn_if_far(target.scene, target.wanted.area, load_classifier(keep(MODEL)), mask=target.wanted.mask)
        return job, facts

    def rehearse(folder: Path) -> Job[Any]:
        untrained.cpu().save(folder / MODEL)
        return _job(target, folder / MODEL, None, range(target.scene.num_bands), cost)

    count, training = len(fitting.labelled), recipe.training
    return _of_model(
        target,
        untrained,
        cost,
        identity={"recipe": recipe.to_dict(), "encoder": None if base is None else fingerprint(base), "adapters": adapters},
        first=f"{recipe.network} is fitted to {count:,} labelled pixels: {training.members} x {training.steps:,} steps at most",
        prepare=prepare,
        rehearse=rehearse,
    )


def by_model(
    target: Target,
    model: Path,
    *,
    base: FoundationModel | None,
    encoder: Path | None,
    engine: EngineName | None = None,
) -> Approach:
    """Map with a network that was fitted before.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such model, an encoder that it has no use for, or bands that the scene lacks.
    """
    classifier, scene = load_classifier(model, base, engine), target.scene
    bands = match_bands(classifier.info, scene.wavelengths, scene.num_bands, scene.path)
    cost = cost_of(classifier.to(target.device), device=target.device, precision=target.precision)
    job = replace(_job(target, model, encoder, bands, cost), engine=classifier.engine)

    def prepare(_: Keep) -> tuple[Job[Any], dict[str, Any]]:
        warn_if_far(scene.with_bands(bands), target.wanted.area, classifier, mask=target.wanted.mask)
        return job, {}

    return _of_model(
        target,
        classifier,
        cost,
        identity={
            "model": content_of(model),
            "encoder": None if base is None else fingerprint(base),
            "engine": classifier.engine,
        },
        prepare=prepare,
        rehearse=lambda _: job,
    )


def by_clusters(target: Target, clusters: int, *, seed: int) -> Approach:
    """Group spectra that are alike."""
    scene = target.scene
    infos = tuple(ClassInfo(k + 1, f"cluster {k + 1}", default_color(k + 1)) for k in range(clusters))

    def grouped(file: Path) -> Job[Any]:
        if not file.is_file():
            groups = find_groups(scene, target.wanted.area, clusters, seed=seed, mask=target.wanted.mask)
            with atomic(file) as whole:
                groups.save(whole)
        values = [info.value for info in infos]
        return GroupJob(scene=scene, groups=file, values=values, wanted=target.wanted)

    return Approach(
        method="unsupervised: k-means on standardised spectra",
        classes=infos,
        cost=cost_of_groups(scene.num_bands, clusters),
        bands=scene.num_bands,
        channels=1,
        halo=0,
        identity={"clusters": clusters},
        device=torch.device("cpu"),
        prepare=lambda keep: (grouped(keep("groups.safetensors")), {}),
        rehearse=lambda folder: grouped(folder / "groups.safetensors"),
    )


def _job(target: Target, model: Path, encoder: Path | None, bands: Sequence[int], cost: Cost) -> MapJob:
    return MapJob(
        scene=target.scene, bands=bands, model=model, encoder=encoder, wanted=target.wanted, cell=cost.cell,
        device=target.device, precision=target.precision,
    )  # fmt: skip


def _of_model(
    target: Target,
    model: Classifier,
    cost: Cost,
    *,
    identity: dict[str, Any],
    first: str = "",
    prepare: Callable[[Keep], tuple[Job[Any], dict[str, Any]]],
    rehearse: Callable[[Path], Job[Any]],
) -> Approach:
    centres = model.info.wavelengths
    names = [f"band {band}" for band in range(1, model.info.bands + 1)] if centres is None else [f"{nm:g} nm" for nm in centres]
    settings = {"cell": cost.cell, "device": target.device.type, "precision": str(target.precision).removeprefix("torch.")}
    return Approach(
        method=model.info.recipe.network,
        classes=model.info.classes,
        cost=cost,
        bands=model.info.bands,
        names=tuple(names),
        channels=3,
        halo=model.halo,
        identity=json.loads(json.dumps(identity | settings)),
        device=target.device,
        first=first,
        prepare=prepare,
        rehearse=rehearse,
    )
