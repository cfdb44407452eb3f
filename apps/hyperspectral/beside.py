"""Run card and STAC item of a map."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...datasets.growing import GrowingRasters
from ..cards import RunFacts, write_run_card, write_stac_item
from .approaches import Approach
from .results import Mapped
from .working import MAP, PROBABILITIES

_STAGES = {"fit": "fit_seconds", "map": "map_seconds", "polygons": "polygons_seconds", "all": "seconds"}


def write_beside(
    rasters: GrowingRasters, files: Mapping[str, Path], mapped: Mapped, approach: Approach, parameters: Mapping[str, Any]
) -> None:
    """Write SCENE_run.json and SCENE_item.json, once all other files are written.

    Args:
        rasters: of the run.
        files: where the results are to appear, by kind.
        mapped: the map.
        approach: how it was made.
        parameters: of the command.
    """

    def now(kind: str) -> Path:
        """Where a result lies now. What is gone on with after some results have appeared finds those in their places."""
        made = rasters.raster(kind) if kind in (MAP, PROBABILITIES) else rasters.other(kind)
        return made if made.exists() else files[kind]

    given = parameters.get("model")
    results = {kind: now(kind) for kind in files if kind not in ("run", "item")}
    inputs = (parameters.get(name) for name in ("scene", "labels", "classes", "encoder", "mask"))
    report = mapped.report
    facts = RunFacts(
        command="classify",
        parameters=parameters,
        inputs=[str(name) for name in inputs if name is not None],
        model=results.get("model") if given is None else Path(given),
        results=results,
        grid=mapped.grid,
        folder=files[MAP].parent,
        seconds={stage: report[key] for stage, key in _STAGES.items() if key in report},
        architecture=approach.method,
        task="semantic-segmentation",
        bands=approach.names,
        classes=approach.classes,
        elsewhere={kind: path for kind, path in files.items() if path.parent != files[MAP].parent},
    )
    write_run_card(rasters.other("run"), facts)
    write_stac_item(rasters.other("item"), replace(facts, results=results | {"run": rasters.other("run")}))
