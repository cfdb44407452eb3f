"""`geovit classify`: from a scene, and labels or a model or neither, to a georeferenced class map."""

import logging
import time
from dataclasses import asdict
from os import PathLike
from pathlib import Path

from ...core.device import resolve_device
from ...core.engines import EngineName
from ...core.precision import Precision, resolve_precision
from ...core.sensors.model import model_file
from ...core.streaming.plan import Area
from ...datasets import AreaMask, open_scene, window_of
from ..streaming import RunOptions
from .adaptation import adapting, read_encoder
from .approaches import Target, by_clusters, by_labels, by_model
from .arrays import classify_array
from .fitting import Fitting
from .map_runs import MapRun
from .recipe import DEFAULT_RECIPE, Recipe
from .results import Classification, ready_folder, result_files
from .working import Wanted

logger = logging.getLogger(__name__)


def classify(
    scene: str,
    *,
    labels: str | None = None,
    field: str | None = None,
    classes: str | Path | None = None,
    model: str | Path | None = None,
    engine: EngineName | None = None,
    encoder: str | Path | None = None,
    lora_rank: int | None = None,
    freeze: bool = False,
    full: bool = False,
    adapters: bool = False,
    clusters: int = 8,
    bounds: str | None = None,
    mask: str | None = None,
    out: str | Path = Path(),
    probabilities: bool = False,
    quicklook: bool = False,
    report: bool = False,
    vectorize: str | Path | None = None,
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
        encoder: pretrained encoder to adapt to the labels, by adapters of low rank (LoRA) unless said otherwise: a file of
            `geovit pretrain` or its folder, or the name default, for the one that comes with geovit.
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
    classes, model, encoder, vectorize = (None if one is None else Path(one) for one in (classes, model, encoder, vectorize))
    out = Path(out)
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
    encoder = None if encoder is None else model_file(encoder)
    parameters = dict(locals())  # for the run card
    how = RunOptions(bounds=bounds, max_memory=max_memory, resume=resume, overwrite=overwrite, dask=dask, progress=progress)
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
    kinds = [kind for kind, asked in wanted.items() if asked]
    files = result_files(opened, out, kinds, (labels, model, encoder, mask), polygons=vectorize)
    if labels is not None:
        fitting = Fitting.of(opened, labels, recipe, base=base, field=field, classes=classes)
        approach = by_labels(target, fitting, base=base, adapters=adapters, seed=seed, progress=progress)
    elif model is not None:
        approach = by_model(target, model, base=base, encoder=encoder, engine=engine)
    else:
        logger.warning("no labels and no model: this is an unsupervised map, its classes are groups of similar spectra")
        approach = by_clusters(target, clusters, seed=seed)
    run = MapRun(target, approach, files, how, parameters)
    if plan:
        told = run.forecast()
        return Classification({}, {"first": approach.first, **asdict(told)}, told)
    ready_folder(out, () if resume else files.values(), overwrite)
    return Classification(files, run.map(started))
