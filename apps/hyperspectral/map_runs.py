"""A scene of any size to its map, part by part: what is finished outlives a crash, and memory does not grow with the scene."""

import json
import logging
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...core.streaming.plan import Plan
from ...core.streaming.run import Job
from ...datasets import write_text_atomic
from ...datasets.growing import CACHE_BYTES, GrowingRasters
from ...datasets.identity import content_of
from ...datasets.vectorizing import vectorize
from ..forecasting import Forecast, forecast
from ..streaming import RunOptions, carried_out, compute_threads, largest_side, unfinished_folder
from .approaches import Approach, Target
from .beside import write_beside
from .fitting import ADAPTERS, MODEL
from .report.gathering import write_page
from .results import POLYGONS, Mapped, describe, grid_of_area, layers_of, summed
from .working import MAP, lead_of, part_bytes, plan_of

logger = logging.getLogger(__name__)


class MapRun:
    """One scene that is to be mapped.

    Args:
        target: what is to be mapped.
        approach: by what.
        files: where results are to appear, by kind.
        how: it is gone through.
        parameters: of `geovit classify`.

    Raises:
        ValueError: memory does not suffice for the smallest parts.
    """

    def __init__(
        self, target: Target, approach: Approach, files: Mapping[str, Path], how: RunOptions, parameters: Mapping[str, Any]
    ) -> None:
        self.target, self.approach, self.files, self.how, self.parameters = target, approach, files, how, parameters
        self.folder = unfinished_folder(files[MAP])
        self.layers = layers_of(files, grid_of_area(target.scene, target.wanted.area), approach.classes)
        self.parts, self.threads, self.memory = self._parts()

    def _parts(self) -> tuple[Plan, int, float]:
        """Return the parts of the scene, how many of them are computed at a time, and the bytes that this takes."""
        approach, max_memory = self.approach, self.how.max_memory
        cell, scene, area = approach.cost.cell, self.target.scene, self.target.wanted.area
        pixel = approach.bands * scene.stored.dtype.itemsize
        cached = min(CACHE_BYTES, scene.grid.height * scene.grid.width * pixel)

        def needs(side: int, threads: int) -> float:
            return cached + part_bytes(
                side, threads, approach.cost, width=area.width, pixel=pixel, channels=approach.channels, halo=approach.halo
            )

        whole = -(-(max(area.height, area.width) + lead_of(cell, approach.halo)) // cell) * cell
        largest = min(approach.cost.largest, whole)
        least = min(256 // cell * cell or cell, largest)  # below, more is read twice than threads gain
        threads = compute_threads(approach.device, lambda count: needs(least, count), max_memory=max_memory)
        block = max(scene.block)
        aligned = block if all(block % pixels == 0 for pixels in (*scene.block, cell)) else cell
        side = largest_side(
            lambda side: needs(side, threads), max_memory=max_memory, multiple=cell, preferred=aligned, largest=largest,
            unfinished=self.folder if self.how.resume else None,
        )  # fmt: skip
        multiple = aligned if side % aligned == 0 else cell
        parts = plan_of(scene.grid.shape, area, side=side, halo=approach.halo, cell=cell, multiple=multiple)
        return parts, threads, needs(side, threads)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the result."""
        given, scene = self.parameters, self.target.scene
        return {
            "command": "classify", "scene": content_of(scene.path), "bands": scene.bands, "area": asdict(self.target.wanted.area),
            **{name: content_of(given[name]) for name in ("mask", "labels", "classes")},
            **{name: given[name] for name in ("field", "seed")},
            "approach": self.approach.identity,
        }  # fmt: skip

    def forecast(self) -> Forecast:
        """Tell what it will take, and write nothing."""
        with tempfile.TemporaryDirectory() as scratch:
            job = self.approach.rehearse(Path(scratch))
            return forecast(self.parts, job, self.layers, memory=self.memory, threads=self.threads, dask=self.how.dask)

    def map(self, started: float) -> dict[str, Any]:
        """Map it and write all files.

        Args:
            started: by ``time.perf_counter``, when the command began.

        Returns:
            The report.

        Raises:
            ValueError, OSError: as of ``classify``; what is finished is kept, and can be gone on with.
        """
        approach, scene, given = self.approach, self.target.scene, self.parameters
        noted = describe(scene, given["seed"]) | {
            "bounds": given["bounds"], "mask": given["mask"], "method": approach.method, "device": str(approach.device),
        }  # fmt: skip
        began: list[float] = []

        def prepared(rasters: GrowingRasters) -> Job[Any]:
            job, facts = approach.prepare(rasters.keep)
            noted.update(facts)
            began.append(time.perf_counter())
            return job

        with carried_out(
            self.parts, prepared, self.layers, folder=self.folder, identity=self.identity, how=self.how,
            others={kind: path for kind, path in self.files.items() if kind not in self.layers},
            threads=self.threads, label="Mapping",
        ) as rasters:  # fmt: skip
            pixels = summed(rasters.facts, "pixels")
            assert pixels is not None
            if not pixels.any():
                logger.warning("%s: no pixel that was asked for is valid in all of the bands: the map is empty", scene.path)
            if approach.identity.get("precision"):
                model = given["model"]
                noted |= {"model": None if model is None else str(model), "precision": approach.identity["precision"]}
                noted["map_seconds"] = round(time.perf_counter() - began[0], 2)
            mapped = Mapped(
                scene=scene, area=self.target.wanted.area, classes=approach.classes, pixels=pixels,
                confidence=summed(rasters.facts, "confidence"), hectares=summed(rasters.facts, "hectares"),
                map_file=rasters.raster(MAP), report=noted,
            )  # fmt: skip
            self._write_others(rasters, mapped, started)
            write_beside(rasters, self.files, mapped, approach, given)
        return noted

    def _write_others(self, rasters: GrowingRasters, mapped: Mapped, started: float) -> None:
        """Write what is made of the map and the model, and at last the report, which tells of all of it."""
        files = self.files
        noted = mapped.report
        for kind, name in (("model", MODEL), ("adapters", ADAPTERS)):
            if kind in files:
                shutil.copyfile(rasters.keep(name), rasters.other(kind))
        if "quicklook" in files:
            mapped.write_quicklook(rasters.other("quicklook"))
        if POLYGONS in files:
            traced = time.perf_counter()
            vectorize(mapped.map_file, rasters.other(POLYGONS), mapped.classes, overwrite=True)
            noted["polygons_seconds"] = round(time.perf_counter() - traced, 2)
        noted["classes"] = mapped.areas()
        noted["seconds"] = round(time.perf_counter() - started, 2)
        noted["files"] = {kind: str(path) for kind, path in files.items()}
        if "page" in files:
            write_page(rasters.other("page"), mapped)
        write_text_atomic(rasters.other("report"), json.dumps(noted, indent=2, ensure_ascii=False) + "\n", overwrite=True)
