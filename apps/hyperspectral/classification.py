"""`geovit classify`: from a scene, and labels or a model or neither, to a georeferenced class map."""

import json
import logging
import re
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Group
from rich.table import Table

from ... import __version__
from ...core.device import resolve_device
from ...core.precision import Precision, resolve_precision
from ...core.sensors.model import FoundationModel
from ...datasets import (
    ClassInfo,
    Scene,
    atomic,
    check_writable,
    default_color,
    open_scene,
    read_labels,
    write_bands,
    write_class_map,
    write_text_atomic,
)
from .adaptation import adapting, read_encoder
from .encoder_network import encoder_for
from .mapping import cluster, predict
from .model import Classifier, load_classifier, match_bands
from .quicklook import write_quicklook
from .recipe import DEFAULT_RECIPE, Recipe
from .samples import LabelledScene
from .training import fit, tiling

logger = logging.getLogger(__name__)

PROBABILITY_BANDS = ("largest class probability, calibrated", "entropy, 0 sure to 1 undecided")


@dataclass(frozen=True, eq=False)
class Classification:
    """A finished map or model: what was written, and what the report says."""

    files: dict[str, Path]
    report: dict[str, Any]

    def __rich__(self) -> Group:
        parts: list[Any] = []
        if "classes" in self.report:
            table = Table("value", "class", box=None, padding=(0, 2, 0, 0))
            for name in ("pixels", "share", "hectares"):
                table.add_column(name, justify="right")
            for row in self.report["classes"]:
                hectares = "" if row["hectares"] is None else f"{row['hectares']:,.1f}"
                table.add_row(str(row["value"]), row["name"], f"{row['pixels']:,}", f"{row['share']:.1%}", hectares)
            parts.append(table)
        accuracy = self.report.get("validation", {}).get("accuracy")
        if accuracy is not None:
            parts.append(f"Accuracy on held-out blocks of the labels, which also stopped the training: {accuracy:.3f}")
        parts += [f"{kind}: {path}" for kind, path in self.files.items()]
        parts.append(f"{self.report['seconds']:.1f} seconds")
        return Group(*parts)


def classify(
    scene: str,
    *,
    labels: str | None = None,
    field: str | None = None,
    classes: Path | None = None,
    model: Path | None = None,
    encoder: Path | None = None,
    lora_rank: int | None = None,
    freeze: bool = False,
    full: bool = False,
    adapters: bool = False,
    clusters: int = 8,
    out: Path = Path(),
    probabilities: bool = False,
    quicklook: bool = False,
    overwrite: bool = False,
    recipe: Recipe = DEFAULT_RECIPE,
    device: str = "auto",
    precision: Precision = "auto",
    seed: int = 0,
    progress: bool = False,
) -> Classification:
    """Map the land cover of a hyperspectral scene.

    With labels a network is fitted to them and maps the scene. With a model from an earlier run the scene is mapped with that.
    With neither, pixels of similar spectra are grouped (k-means), without any meaning given to the groups. Written are
    SCENE_classes.tif, a Cloud Optimized GeoTIFF on exactly the scene's grid, and SCENE_report.json; SCENE_model.safetensors if
    a model was fitted. With an encoder from `geovit pretrain`, it is that which is fitted to the labels. Nothing is written
    before everything is computed, and each file appears whole or not at all.

    Args:
        scene: GeoTIFF, COG or other GDAL raster, ENVI file, or MATLAB file (scene.mat:key).
        labels: class raster, polygons or points (GeoPackage, GeoJSON, Shapefile), or MATLAB array to fit a network to.
        field: attribute of the vector labels that holds the class.
        classes: CSV file with value,name,#rrggbb of the classes.
        model: map with this SCENE_model.safetensors instead of fitting one; or with SCENE_adapters.safetensors and its encoder.
        encoder: pretrained encoder to adapt to the labels, by adapters of low rank (LoRA) unless said otherwise.
        lora_rank: of the adapters.
        freeze: leave the encoder as it is and fit a linear classifier on it.
        full: fit all weights of the encoder.
        adapters: also write SCENE_adapters.safetensors, a small file with what was trained, without the encoder.
        clusters: number of groups if neither labels nor a model is given.
        out: folder to write to.
        probabilities: also write SCENE_probabilities.tif with the largest probability and the entropy.
        quicklook: also write SCENE_quicklook.png with a legend.
        overwrite: replace files that exist.
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
    if labels is not None and model is not None:
        raise ValueError("both labels and a model were given: labels fit a new model, a model maps without labels")
    if probabilities and labels is None and model is None:
        raise ValueError("probabilities need labels or a model: groups of similar spectra have none")
    if not 2 <= clusters <= 255:
        raise ValueError(f"clusters is {clusters}, allowed are 2..255")
    target, dtype = resolve_device(device), resolve_precision(precision, resolve_device(device))
    opened = open_scene(scene)
    if labels is not None:
        recipe, base = adapting(recipe, encoder, lora_rank=lora_rank, freeze=freeze, full=full, adapters=adapters)
    elif lora_rank is not None or freeze or full or adapters:
        raise ValueError("lora_rank, freeze, full and adapters are said of a fit to labels, but none were given")
    elif encoder is not None and model is None:
        raise ValueError("an encoder alone makes no map: give labels, or the adapters (--model) that belong to it")
    else:
        base = None if encoder is None else read_encoder(encoder)
    wanted = {
        "map": True,
        "model": labels is not None,
        "adapters": adapters,
        "probabilities": probabilities,
        "quicklook": quicklook,
        "report": True,
    }
    files = _outputs(
        opened, Path(out), [kind for kind, is_wanted in wanted.items() if is_wanted], overwrite, labels, model, encoder
    )
    started = time.perf_counter()
    report = _describe(opened, seed)

    if labels is None and model is None:
        logger.warning("no labels and no model: this is an unsupervised map, its classes are groups of similar spectra")
        index = cluster(opened, clusters, seed=seed, progress=progress)
        infos = tuple(ClassInfo(k + 1, f"cluster {k + 1}", default_color(k + 1)) for k in range(clusters))
        report |= {"method": "unsupervised: k-means on standardised spectra", "device": "cpu"}
        prediction = None
    else:
        if labels is not None:
            classifier = _fit(opened, labels, field, classes, recipe, base, seed, target, dtype, progress, report)
            trained = classifier.adapters() if adapters else {}
            classifier.merge()
        else:
            classifier = load_classifier(Path(str(model)), base)
        bands = match_bands(classifier.info, opened.wavelengths, opened.num_bands, opened.path)
        mapped = time.perf_counter()
        prediction = predict(opened, classifier, bands, device=target, precision=dtype, progress=progress)
        index, infos = prediction.index, classifier.info.classes
        report |= {"method": classifier.info.recipe.network, "model": str(model) if model else None, "device": str(target)}
        report |= {"precision": str(dtype).removeprefix("torch."), "map_seconds": round(time.perf_counter() - mapped, 2)}
    report["classes"] = _areas(index, infos, opened)
    report["seconds"] = round(time.perf_counter() - started, 2)
    report["files"] = {kind: str(path) for kind, path in files.items()}

    with ExitStack() as stack:  # the files appear under their names when all of them are whole
        at = {kind: stack.enter_context(atomic(path, overwrite)) for kind, path in files.items()}
        if "model" in at:
            classifier.cpu().save(at["model"])
        if "adapters" in at:
            classifier.save_adapters(at["adapters"], trained)
        values = np.array([0, *(info.value for info in infos)], dtype=np.int32)[index + 1]
        write_class_map(at["map"], values, opened.grid, infos)
        if prediction is not None and "probabilities" in at:
            bands_out = np.stack([prediction.confidence, prediction.entropy])
            write_bands(at["probabilities"], bands_out, opened.grid, descriptions=PROBABILITY_BANDS)
        if "quicklook" in at:
            title = "unsupervised map" if prediction is None else f"land cover, {report['method']}"
            write_quicklook(at["quicklook"], opened, index, infos, title=title)
        write_text_atomic(at["report"], json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    return Classification(files, report)


def fit_model(
    scene: str,
    labels: str,
    *,
    field: str | None = None,
    classes: Path | None = None,
    encoder: Path | None = None,
    lora_rank: int | None = None,
    freeze: bool = False,
    full: bool = False,
    adapters: bool = False,
    out: Path = Path(),
    overwrite: bool = False,
    recipe: Recipe = DEFAULT_RECIPE,
    device: str = "auto",
    precision: Precision = "auto",
    seed: int = 0,
    progress: bool = False,
) -> Classification:
    """Fit a classifier to the labels of a scene, without mapping it.

    Written are SCENE_model.safetensors, for `geovit classify --model`, and SCENE_report.json.

    Args:
        scene: as in `geovit classify`.
        labels: as in `geovit classify`.
        field: attribute of the vector labels that holds the class.
        classes: CSV file with value,name,#rrggbb of the classes.
        encoder: as in `geovit classify`.
        lora_rank: as in `geovit classify`.
        freeze: as in `geovit classify`.
        full: as in `geovit classify`.
        adapters: as in `geovit classify`.
        out: folder to write to.
        overwrite: replace files that exist.
        recipe: network and training; a name that comes with geovit (spectral_swin, lola_specvit, encoder) or a YAML file.
        device: auto, cpu, cuda, cuda:1 or mps.
        precision: auto, fp32, bf16 or fp16.
        seed: of all random choices.
        progress: show progress bars.

    Returns:
        Paths of the files written and the report.

    Raises:
        ValueError: anything wrong with the input, in one line.
        OSError: a file is missing, or cannot be written.
    """
    target, dtype = resolve_device(device), resolve_precision(precision, resolve_device(device))
    opened = open_scene(scene)
    recipe, base = adapting(recipe, encoder, lora_rank=lora_rank, freeze=freeze, full=full, adapters=adapters)
    kinds = ["model", "adapters", "report"] if adapters else ["model", "report"]
    files = _outputs(opened, Path(out), kinds, overwrite, labels, encoder)
    report = _describe(opened, seed)
    model = _fit(opened, labels, field, classes, recipe, base, seed, target, dtype, progress, report)
    report |= {"method": recipe.network, "device": str(target), "seconds": report["fit_seconds"]}
    with ExitStack() as stack:
        at = {kind: stack.enter_context(atomic(path, overwrite)) for kind, path in files.items()}
        model.cpu().save(at["model"])
        if "adapters" in at:
            model.save_adapters(at["adapters"], model.adapters())
        write_text_atomic(at["report"], json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    return Classification(files, report)


_ENDINGS = {
    "map": "_classes.tif",
    "model": "_model.safetensors",
    "adapters": "_adapters.safetensors",
    "probabilities": "_probabilities.tif",
    "quicklook": "_quicklook.png",
    "report": "_report.json",
}


def _outputs(scene: Scene, folder: Path, kinds: Iterable[str], overwrite: bool, *inputs: str | Path | None) -> dict[str, Path]:
    """Return the files to write, once it is sure that they can be written and that none of them is an input."""
    stem = Path(re.sub(r"(?i)(\.mat):.*", r"\1", scene.path)).stem
    files = {kind: folder / f"{stem}{_ENDINGS[kind]}" for kind in kinds}
    for path in files.values():
        if any(given is not None and path.resolve() == Path(given).resolve() for given in inputs):
            raise ValueError(f"{path} is an input and would be overwritten: choose another folder to write to")
    check_writable(files.values(), overwrite)
    return files


def _describe(scene: Scene, seed: int) -> dict[str, Any]:
    return {
        "geovit": __version__,
        "scene": scene.path,
        "size": list(scene.grid.shape),
        "crs": scene.grid.crs.to_string() if scene.grid.crs else None,
        "bands": scene.num_bands,
        "bands_dropped": {str(band): reason for band, reason in scene.dropped.items()},
        "wavelengths_nm": None if scene.wavelengths is None else [scene.wavelengths[0], scene.wavelengths[-1]],
        "seed": seed,
    }


def _fit(
    scene: Scene, labels: str, field: str | None, classes: Path | None, recipe: Recipe, base: FoundationModel | None, seed: int,
    device: Any, dtype: Any, progress: bool, report: dict[str, Any],
) -> Classifier:  # fmt: skip
    source = None if base is None else encoder_for(scene, base)
    read = read_labels(labels, scene.grid, field=field, classes=classes)
    tiles = tiling(recipe)
    labelled = LabelledScene(scene, read, margin=tiles.margin, core=tiles.core)
    everything = np.ones(len(labelled), dtype=np.bool_)
    started = time.perf_counter()
    model = fit(scene, labelled, everything, recipe, seed=seed, device=device, precision=dtype, progress=progress, encoder=source)
    counts = np.bincount(labelled.targets)
    report |= {
        "labels": labels,
        "labelled_pixels": {info.name: int(n) for info, n in zip(labelled.classes, counts, strict=True)},
        "recipe": recipe.to_dict(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "fit_seconds": round(time.perf_counter() - started, 2),
        "validation": model.info.validation,
    }
    return model


def _areas(index: NDArray[np.int32], classes: tuple[ClassInfo, ...], scene: Scene) -> list[dict[str, Any]]:
    counts = np.bincount(index[index >= 0], minlength=len(classes))
    crs = scene.grid.crs
    metres = crs.linear_units_factor[1] if crs is not None and crs.is_projected else None
    hectares = None if metres is None else abs(scene.grid.transform.determinant) * metres**2 / 1e4
    return [
        {
            "value": info.value,
            "name": info.name,
            "pixels": int(n),
            "share": round(n / max(counts.sum(), 1), 4),
            "hectares": None if hectares is None else round(n * hectares, 2),
        }
        for info, n in zip(classes, counts.tolist(), strict=True)
    ]
