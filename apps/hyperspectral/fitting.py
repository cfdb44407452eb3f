"""From a scene and its labels to a fitted classifier, and to its files."""

import json
import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from ... import __version__
from ...core.device import resolve_device
from ...core.precision import Precision, resolve_precision
from ...core.sensors.model import FoundationModel
from ...datasets import Scene, atomic, open_scene, read_labels, write_text_atomic
from .adaptation import adapting
from .encoder_network import SceneEncoder, encoder_for
from .model import Classifier, ModelInfo
from .recipe import DEFAULT_RECIPE, Recipe
from .results import Classification, describe, ready_folder, result_files
from .samples import LabelledScene

MODEL, ADAPTERS, _FACTS = "model.safetensors", "adapters.safetensors", "fit.json"


def _training() -> ModuleType:
    """Return what fits networks. It brings Lightning with it: 0.3 GB that mapping with a fitted model does not need.

    Lightning sets levels of its loggers when it is imported; those that were set before stay.
    """
    levels = {name: logging.getLogger(name).level for name in logging.root.manager.loggerDict if "lightning" in name}
    module = import_module(".training", __package__)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    return module


@dataclass(frozen=True, eq=False)
class Fitting:
    """What a classifier is fitted to.

    Args:
        scene: the image.
        labelled: its labelled pixels.
        labels: where they come from.
        recipe: network and training.
        encoder: pretrained, to be adapted; None without.
    """

    scene: Scene
    labelled: LabelledScene
    labels: str
    recipe: Recipe
    encoder: SceneEncoder | None

    @classmethod
    def of(
        cls,
        scene: Scene,
        labels: str,
        recipe: Recipe,
        *,
        base: FoundationModel | None = None,
        field: str | None = None,
        classes: str | Path | None = None,
    ) -> "Fitting":
        """Read the labels.

        Raises:
            ValueError: labels that cannot be read or used, or an encoder that cannot read the scene.
        """
        source = None if base is None else encoder_for(scene, base)
        read = read_labels(labels, scene.grid, field=field, classes=classes)
        tiles = _training().tiling(recipe)
        return cls(scene, LabelledScene(scene, read, margin=tiles.margin, core=tiles.core), labels, recipe, source)

    def untrained(self) -> Classifier:
        """Return a classifier of the same shape that has learned nothing, to see what it takes."""
        wavelengths = None if self.scene.wavelengths is None else self.scene.wavelengths.tolist()
        info = ModelInfo(__version__, self.scene.num_bands, wavelengths, self.labelled.classes, self.recipe, {})
        with torch.random.fork_rng(devices=[]):
            model = Classifier(info)
            if self.encoder is not None:
                model.adapt(self.encoder)
        return model.merge().eval()

    def fit(
        self, *, seed: int, device: torch.device, precision: torch.dtype, progress: bool
    ) -> tuple[Classifier, dict[str, Any]]:
        """Fit a classifier; return it, with what a report says of that."""
        started = time.perf_counter()
        model: Classifier = _training().fit(
            self.scene, self.labelled, np.ones(len(self.labelled), dtype=np.bool_), self.recipe, seed=seed, device=device,
            precision=precision, progress=progress, encoder=self.encoder,
        )  # fmt: skip
        counts = np.bincount(self.labelled.targets)
        return model, {
            "labels": self.labels,
            "labelled_pixels": {info.name: int(n) for info, n in zip(self.labelled.classes, counts, strict=True)},
            "recipe": self.recipe.to_dict(),
            "parameters": sum(p.numel() for p in model.parameters()),
            "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "fit_seconds": round(time.perf_counter() - started, 2),
            "validation": model.info.validation,
        }

    def kept(
        self,
        keep: Callable[[str], Path],
        *,
        adapters: bool,
        seed: int,
        device: torch.device,
        precision: torch.dtype,
        progress: bool,
    ) -> dict[str, Any]:
        """Fit, unless it was done and kept before; the files are at ``keep(MODEL)`` and, if asked for, ``keep(ADAPTERS)``.

        Returns:
            What a report says of the fit.
        """
        facts_file = keep(_FACTS)  # written last: if it is there, all are
        if facts_file.is_file():
            facts: dict[str, Any] = json.loads(facts_file.read_text(encoding="utf-8"))
            return facts
        model, facts = self.fit(seed=seed, device=device, precision=precision, progress=progress)
        with atomic(keep(MODEL), overwrite=True) as file:
            model.cpu().save(file)
        if adapters:
            with atomic(keep(ADAPTERS), overwrite=True) as file:
                model.save_adapters(file, model.adapters())
        write_text_atomic(facts_file, json.dumps(facts), overwrite=True)
        return facts


def fit_model(
    scene: str,
    labels: str,
    *,
    field: str | None = None,
    classes: str | Path | None = None,
    encoder: str | Path | None = None,
    lora_rank: int | None = None,
    freeze: bool = False,
    full: bool = False,
    adapters: bool = False,
    out: str | Path = Path(),
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
        scene: GeoTIFF, COG or other GDAL raster, or anything else that `geovit classify` opens.
        labels: class raster, polygons or points (GeoPackage, GeoJSON, Shapefile), or MATLAB array.
        field: attribute of the vector labels that holds the class.
        classes: CSV file with value,name,#rrggbb of the classes.
        encoder: pretrained encoder to adapt to the labels, by adapters of low rank (LoRA) unless said otherwise.
        lora_rank: of the adapters.
        freeze: leave the encoder as it is and fit a linear classifier on it.
        full: fit all weights of the encoder.
        adapters: also write SCENE_adapters.safetensors, a small file with what was trained, without the encoder.
        out: folder to write to, made if there is none.
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
    on = resolve_device(device)
    dtype = resolve_precision(precision, on)
    opened = open_scene(scene)
    recipe, base = adapting(recipe, encoder, lora_rank=lora_rank, freeze=freeze, full=full, adapters=adapters)
    kinds = ["model", "adapters", "report"] if adapters else ["model", "report"]
    files = result_files(opened, Path(out), kinds, (labels, encoder))
    ready_folder(Path(out), files.values(), overwrite)
    fitting = Fitting.of(opened, labels, recipe, base=base, field=field, classes=classes)
    model, facts = fitting.fit(seed=seed, device=on, precision=dtype, progress=progress)
    report = describe(opened, seed) | facts | {"method": recipe.network, "device": str(on), "seconds": facts["fit_seconds"]}
    with ExitStack() as stack:  # the files appear under their names when all of them are whole
        at = {kind: stack.enter_context(atomic(path, overwrite)) for kind, path in files.items()}
        model.cpu().save(at["model"])
        if "adapters" in at:
            model.save_adapters(at["adapters"], model.adapters())
        write_text_atomic(at["report"], json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    return Classification(files, report)
