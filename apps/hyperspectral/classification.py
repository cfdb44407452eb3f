"""`geovit classify`: from a scene, and labels or a model or neither, to a georeferenced class map."""

import json
import logging
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

from ...core.device import resolve_device
from ...core.engines import EngineName
from ...core.precision import Precision, resolve_precision
from ...core.streaming.plan import Area, Plan
from ...core.streaming.run import Job
from ...datasets import AreaMask, open_scene, window_of, write_text_atomic
from ...datasets.growing import CACHE_BYTES, GrowingRasters
from ...datasets.identity import content_of
from ...datasets.vectorizing import vectorize as write_polygons
from ..forecasting import forecast
from ..streaming import RunOptions, carried_out, compute_threads, largest_side, unfinished_folder
from .adaptation import adapting, read_encoder
from .approaches import Approach, Target, by_clusters, by_labels, by_model
from .arrays import classify_array
from .beside import write_beside
from .fitting import ADAPTERS, MODEL, Fitting
from .recipe import DEFAULT_RECIPE, Recipe
from .report.gathering import write_page
from .results import (
    POLYGONS,
    Classification,
    Mapped,
    describe,
    grid_of_area,
    layers_of,
    ready_folder,
    result_files,
    summed,
)
from .working import MAP, Wanted, lead_of, part_bytes, plan_of

logger = logging.getLogger(__name__)


def classify(
    scene: str,
    *,
    labels: str | None = None,
    field: str | None = None,
    classes: Path | None = None,
    model: Path | None = None,
    engine: EngineName | None = None,
    encoder: Path | None = None,
    lora_rank: int | None = None,
    freeze: bool = False,
    full: bool = False,
    adapters: bool = False,
    clusters: int = 8,
    bounds: str | None = None,
    mask: str | None = None,
    out: Path = Path(),
    probabilities: bool = False,
    quicklook: bool = False,
    report: bool = False,
    vectorize: Path | None = None,
    plan: bool = False,
    max_memory: float | None = None,
    resume: bool = False,
    dask: str | None = None,
    overwrite: bool = False,
    recipe: Recipe = DEFAULT_RECIPE,
    device: str = "auto",
    precision: Precision = "auto",
    seed: int = 0,
    progress: bool = False,
) -> Classification:
    """Map the land cover of a hyperspectral scene of any size.

    With labels a network is fitted to them and maps the scene. With a model from an earlier run the scene is mapped with that.
    With neither, pixels of similar spectra are grouped (k-means), without any meaning given to the groups. Written are
    SCENE_classes.tif, a Cloud Optimized GeoTIFF on exactly the scene's grid, SCENE_report.json, SCENE_run.json, which --from-card
    repeats, and SCENE_item.json, a STAC item; SCENE_model.safetensors if a model was fitted. With an encoder from
    `geovit pretrain`, it is that which is fitted to the labels. Scenes are mapped part by part: the result does not depend on the
    parts, and a run that was cut off goes on where it was. All files appear at the end, each whole or not at all.

    Args:
        scene: GeoTIFF, COG or other GDAL raster, ENVI file, product of EnMAP, PRISMA or EMIT, NetCDF, Zarr store, STAC item,
            MATLAB file (scene.mat:key), a mosaic ('tiles/*.tif' or a.tif,b.tif), bands in several files (a.tif+b.tif), or a URL.
            From Python also an xarray.DataArray, see `geovit.apps.hyperspectral.classify_array`.
        labels: class raster, polygons or points (GeoPackage, GeoJSON, Shapefile), or MATLAB array to fit a network to.
        field: attribute of the vector labels that holds the class.
        classes: CSV file with value,name,#rrggbb of the classes.
        model: map with this SCENE_model.safetensors instead of fitting one; or with SCENE_adapters.safetensors and its encoder,
            or with a file of `geovit export`, .onnx or .xml.
        engine: runtime of a model that `geovit export` wrote: onnx or openvino, on the CPU in fp32. Default: the one of its file.
        encoder: pretrained encoder to adapt to the labels, by adapters of low rank (LoRA) unless said otherwise.
        lora_rank: of the adapters.
        freeze: leave the encoder as it is and fit a linear classifier on it.
        full: fit all weights of the encoder.
        adapters: also write SCENE_adapters.safetensors, a small file with what was trained, without the encoder.
        clusters: number of groups if neither labels nor a model is given.
        bounds: left,bottom,right,top in the scene's map coordinates: map only the pixels that this box touches. They get the
            classes that the map of the whole scene gives them.
        mask: polygons (GeoPackage, ...): pixels whose centre lies in none of them are no data in the map.
        out: folder to write to, made if there is none.
        probabilities: also write SCENE_probabilities.tif with the largest probability and the entropy.
        quicklook: also write SCENE_quicklook.png with a legend.
        report: also write SCENE_report.html, one file to look at: map over scene, areas, spectra, accuracy.
        vectorize: also write the polygons of the map to this GeoPackage (.gpkg) or GeoParquet file (.parquet), with their areas.
        plan: tell into how many parts the scene is cut, what memory, time and disk that takes, and write nothing.
        max_memory: gigabytes (10^9 bytes) that the process may take at the most. Default: 4, or half of what is free if that is
            less.
        resume: go on with a run that was cut off; if there is none, begin.
        dask: compute the parts on a Dask cluster: local:N for N processes here, or its address, tcp://...
        overwrite: replace files that exist, and throw an unfinished run away.
        recipe: network and training; a name that comes with geovit (spectral_swin, lola_specvit, encoder) or a YAML file.
        device: auto, cpu, cuda, cuda:1 or mps.
        precision: auto, fp32, bf16 or fp16.
        seed: of all random choices.
        progress: show progress bars.

    Returns:
        Paths of the files written and the report.

    Raises:
        ValueError: anything wrong with the input; one line that says what was given and what is allowed.
        OSError: a file is missing, or cannot be written.
    """
    if not isinstance(scene, str | PathLike):
        beside = {"labels": labels, "encoder": encoder, "bounds": bounds, "mask": mask, "dask": dask}
        return classify_array(scene, model, probabilities=probabilities, device=device, precision=precision, beside=beside)
    parameters = dict(locals())  # as they were given, for the run card
    if labels is not None and model is not None:
        raise ValueError("both labels and a model were given: labels fit a new model, a model maps without labels")
    if probabilities and labels is None and model is None:
        raise ValueError("probabilities need labels or a model: groups of similar spectra have none")
    if engine is not None and model is None:
        raise ValueError(f"engine {engine} runs an exported model, but none was given (--model)")
    if labels is None and (lora_rank is not None or freeze or full or adapters):
        raise ValueError("lora_rank, freeze, full and adapters are said of a fit to labels, but none were given")
    if encoder is not None and labels is None and model is None:
        raise ValueError("an encoder alone makes no map: give labels, or the adapters (--model) that belong to it")
    if not 2 <= clusters <= 255:
        raise ValueError(f"clusters is {clusters}, allowed are 2..255")
    started = time.perf_counter()
    on = resolve_device(device)
    opened = open_scene(scene)
    target = Target(
        scene=opened,
        wanted=Wanted(
            area=Area(*((0, 0, *opened.grid.shape) if bounds is None else window_of(opened.grid, bounds))),
            mask=None if mask is None else AreaMask.of(mask, opened.grid),
            probabilities=probabilities,
        ),
        device=on,
        precision=resolve_precision(precision, on),
    )
    if labels is not None:
        recipe, base = adapting(recipe, encoder, lora_rank=lora_rank, freeze=freeze, full=full, adapters=adapters)
    else:
        base = None if encoder is None else read_encoder(encoder)
    wanted = {
        "map": True,
        "model": labels is not None,
        "adapters": adapters,
        "probabilities": probabilities,
        "quicklook": quicklook,
        "page": report,
        "report": True,
        "run": True,
        "item": True,
    }
    out = Path(out)
    kinds = [kind for kind, asked in wanted.items() if asked]
    files = result_files(opened, out, kinds, (labels, model, encoder, mask), polygons=vectorize)
    folder = unfinished_folder(files[MAP])
    if labels is not None:
        fitting = Fitting.of(opened, labels, recipe, base=base, field=field, classes=classes)
        approach = by_labels(target, fitting, base=base, adapters=adapters, seed=seed, progress=progress)
    elif model is not None:
        approach = by_model(target, model, base=base, encoder=encoder, engine=engine)
    else:
        logger.warning("no labels and no model: this is an unsupervised map, its classes are groups of similar spectra")
        approach = by_clusters(target, clusters, seed=seed)
    if not plan:
        ready_folder(out, () if resume else files.values(), overwrite)
    parts, threads, memory = _parts(target, approach, max_memory, folder if resume else None)
    layers = layers_of(files, grid_of_area(opened, target.wanted.area), approach.classes)
    if plan:
        with tempfile.TemporaryDirectory() as scratch:
            told = forecast(parts, approach.rehearse(Path(scratch)), layers, memory=memory, threads=threads, dask=dask)
        return Classification({}, {"first": approach.first, **asdict(told)}, told)

    noted = describe(opened, seed) | {"bounds": bounds, "mask": mask, "method": approach.method, "device": str(approach.device)}
    identity = {
        "command": "classify", "scene": content_of(opened.path), "bands": opened.bands, "area": asdict(target.wanted.area),
        "mask": content_of(mask), "labels": content_of(labels), "field": field, "classes": content_of(classes), "seed": seed,
        "approach": approach.identity,
    }  # fmt: skip

    began: list[float] = []

    def prepared(rasters: GrowingRasters) -> Job[Any]:
        job, facts = approach.prepare(rasters.keep)
        noted.update(facts)
        began.append(time.perf_counter())
        return job

    with carried_out(
        parts, prepared, layers, folder=folder, identity=identity, threads=threads, label="Mapping",
        how=RunOptions(resume=resume, overwrite=overwrite, dask=dask, progress=progress),
        others={kind: path for kind, path in files.items() if kind not in layers},
    ) as rasters:  # fmt: skip
        pixels = summed(rasters.facts, "pixels")
        assert pixels is not None
        if not pixels.any():
            logger.warning("%s: no pixel that was asked for is valid in all of the bands: the map is empty", opened.path)
        if approach.identity.get("precision"):
            noted |= {"model": None if model is None else str(model), "precision": approach.identity["precision"]}
            noted["map_seconds"] = round(time.perf_counter() - began[0], 2)
        mapped = Mapped(
            scene=opened, area=target.wanted.area, classes=approach.classes, pixels=pixels,
            confidence=summed(rasters.facts, "confidence"), hectares=summed(rasters.facts, "hectares"),
            map_file=rasters.raster(MAP), report=noted,
        )  # fmt: skip
        _write_others(rasters, files, mapped, started)
        write_beside(rasters, files, mapped, approach, parameters)
    return Classification(files, noted)


def _write_others(rasters: GrowingRasters, files: Mapping[str, Path], mapped: Mapped, started: float) -> None:
    """Write what is made of the map and the model, and at last the report, which tells of all of it."""
    noted = mapped.report
    for kind, name in (("model", MODEL), ("adapters", ADAPTERS)):
        if kind in files:
            shutil.copyfile(rasters.keep(name), rasters.other(kind))
    if "quicklook" in files:
        mapped.write_quicklook(rasters.other("quicklook"))
    if POLYGONS in files:
        traced = time.perf_counter()
        write_polygons(mapped.map_file, rasters.other(POLYGONS), mapped.classes, overwrite=True)
        noted["polygons_seconds"] = round(time.perf_counter() - traced, 2)
    noted["classes"] = mapped.areas()
    noted["seconds"] = round(time.perf_counter() - started, 2)
    noted["files"] = {kind: str(path) for kind, path in files.items()}
    if "page" in files:
        write_page(rasters.other("page"), mapped)
    write_text_atomic(rasters.other("report"), json.dumps(noted, indent=2, ensure_ascii=False) + "\n", overwrite=True)


def _parts(target: Target, approach: Approach, max_memory: float | None, unfinished: Path | None) -> tuple[Plan, int, float]:
    """Return the parts of a scene, how many of them are computed at a time, and the bytes that this takes."""
    cell, scene, area = approach.cost.cell, target.scene, target.wanted.area
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
        unfinished=unfinished,
    )  # fmt: skip
    multiple = aligned if side % aligned == 0 else cell
    parts = plan_of(scene.grid.shape, area, side=side, halo=approach.halo, cell=cell, multiple=multiple)
    return parts, threads, needs(side, threads)
