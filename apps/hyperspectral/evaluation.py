"""`geovit evaluate hyperspectral`: networks and baselines on the same splits, with the protocol beside the figures."""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from typing import Protocol as TypingProtocol

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Group
from rich.table import Table
from sklearn.metrics import cohen_kappa_score, confusion_matrix, f1_score

from ... import __version__
from ...core.device import resolve_device
from ...core.precision import Precision, autocast, resolve_precision
from ...core.sensors.model import FoundationModel
from ...datasets import ClassInfo, Scene, check_writable, open_scene, read_labels, write_text_atomic
from .adaptation import adapting
from .baselines import BASELINES
from .encoder_network import Adaptation, SceneEncoder, encoder_for
from .recipe import Recipe, named_recipe
from .samples import LabelledScene, at_pixels, require_trainable
from .splits import Split, block_split, leakage, random_split, thinned
from .training import fit, reach_of, tiling

logger = logging.getLogger(__name__)

Protocol = Literal["random", "blocks"]
_ADAPTED: dict[str, Adaptation] = {"encoder_freeze": "freeze", "encoder_full": "full", "encoder_scratch": "scratch"}
_FROM_SCRATCH = 10.0  # times the learning rate of adapting: random weights do better with it (benchmarks/results/foundation.md)


class Predictor(TypingProtocol):
    """A model in the making: from a split to the class of each test pixel."""

    trained: int | None  # parameters that were, where that is a number of interest

    def __call__(self, labelled: LabelledScene, split: Split, seed: int) -> NDArray[np.int64]: ...


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Figures of all models, as in the JSON file."""

    report: dict[str, Any]

    def __rich__(self) -> Group:
        """Mean and standard deviation over the seeds: a row for each model, then the F1 of each class."""
        protocol, models = self.report["protocol"], self.report["models"]
        sizes = f"{protocol['training_pixels']:.0f} pixels train, {protocol['test_pixels']:.0f} test"
        overall, f1 = (Table(box=None, padding=(0, 2, 0, 0)) for _ in range(2))
        for name in ("model", "OA", "AA", "kappa", "leakage", "trained", "seconds"):
            overall.add_column(name)
        for model, row in models.items():
            figures = [_figure(row[k]) for k in ("oa", "aa", "kappa")]
            overall.add_row(
                model, *figures, f"{row['leakage']['mean']:.0%}", _count(row["trained"]), f"{row['seconds']['mean']:.1f}"
            )
        for name in ("F1 of", *models):
            f1.add_column(name)
        for name in self.report["classes"]:
            f1.add_row(name, *(_figure(row["f1"][name]) if name in row["f1"] else "not in the test" for row in models.values()))
        return Group(f"{Path(self.report['scene']).name}: {protocol['text']}: {sizes}", "", overall, "", f1)


def evaluate(
    scene: str,
    labels: str,
    *,
    models: Sequence[str] = ("spectral_swin", "svm", "forest"),
    protocol: Protocol = "random",
    per_class: float | None = None,
    block: int | None = None,
    buffer: int | None = None,
    test_share: float = 0.3,
    seeds: int = 5,
    encoder: str | Path | None = None,
    lora_rank: int | None = None,
    field: str | None = None,
    classes: str | Path | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    device: str = "auto",
    precision: Precision = "auto",
    seed: int = 0,
    progress: bool = False,
) -> Evaluation:
    """Measure models on a labelled scene, all on the same splits.

    Accuracy (OA), mean accuracy over classes (AA), Cohen's kappa and the F1 of each class are given as mean and standard
    deviation over the seeds. Statistics, early stopping and parameters see training pixels only. The leakage is the share of
    test pixels whose surroundings, as far as the model looks, hold a training pixel. Models of a pretrained encoder:
    encoder adapts it as its recipe says (LoRA), encoder_freeze trains a classifier on it, encoder_full all of it, and
    encoder_scratch all of it from random weights, at ten times the learning rate.

    Args:
        scene: as in `geovit classify`.
        labels: as in `geovit classify`.
        models: svm, logistic, forest, names of recipes (spectral_swin, lola_specvit, encoder), YAML files, encoder_freeze,
            encoder_full or encoder_scratch.
        protocol: random: training pixels drawn at random, which flatters models that look around; blocks: spatial blocks, no
            training pixel within the buffer of a test pixel.
        per_class: training pixels of each class, or their share if below 1; default: 50 at random, all of the blocks.
        block: blocks: pixels on a side; default: four buffers, at least 8.
        buffer: blocks: pixels; default: the largest reach among the models.
        test_share: blocks: share of the labelled pixels to test on, at least.
        seeds: number of splits.
        encoder: file of `geovit pretrain`, for the models named encoder.
        lora_rank: of the adapters of the model encoder.
        field: attribute of the vector labels that holds the class.
        classes: CSV file with value,name,#rrggbb of the classes.
        out: JSON file to write.
        overwrite: replace that file.
        device: auto, cpu, cuda, cuda:1 or mps.
        precision: auto, fp32, bf16 or fp16.
        seed: of the first split; the others follow.
        progress: show progress bars.

    Returns:
        The figures.

    Raises:
        ValueError: anything wrong with the input, in one line.
    """
    if seeds < 1 or not models or (per_class is not None and not (0 < per_class < 1 or per_class >= 2)) or not 0 < test_share < 1:
        raise ValueError(
            f"seeds {seeds}, models {list(models)}, per_class {per_class}, test_share {test_share:g}: expected a seed and a"
            " model at least, two pixels or a share below 1 for each class, and a share between 0 and 1 to test"
        )
    if (block is not None and block < 1) or (buffer is not None and buffer < 0):
        raise ValueError(f"block {block}, buffer {buffer}: expected at least 1 and 0 pixels")
    if out is not None:
        check_writable([out], overwrite)
    target = resolve_device(device)
    dtype = resolve_precision(precision, target)
    opened = open_scene(scene)
    recipes, base = _recipes(models, encoder, lora_rank)
    source = None if base is None else encoder_for(opened, base)
    reach = {name: reach_of(recipes[name])[0] if name in recipes else 0 for name in models}
    tiles = tiling(*recipes.values())
    read = read_labels(labels, opened.grid, field=field, classes=classes)
    labelled = LabelledScene(opened, read, margin=tiles.margin, core=tiles.core)
    require_trainable(labelled.classes, labelled.targets)

    buffer = max(reach.values()) if buffer is None else buffer
    block = max(4 * buffer, 8) if block is None else block
    if protocol == "random":
        per_class = 50 if per_class is None else per_class
        splits = [random_split(labelled, per_class, seed=seed + i) for i in range(seeds)]
        text = f"{per_class:g} pixels per class at random" if per_class >= 1 else f"{per_class:.0%} of each class at random"
    else:
        splits = [block_split(labelled, block=block, buffer=buffer, share=test_share, seed=seed + i) for i in range(seeds)]
        text = f"blocks of {block} x {block} pixels, buffer {buffer}, {test_share:.0%} to test"
        if per_class is not None:
            splits = [thinned(labelled, split, per_class, seed=seed + i) for i, split in enumerate(splits)]
            text += f", {per_class:g} pixels per class" if per_class >= 1 else f", {per_class:.0%} of each class"
    predictors: dict[str, Predictor] = {
        name: _Network(opened, recipes[name], source, target, dtype, progress) if name in recipes else _Baseline(name)
        for name in models
    }
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in models}
    for number, split in enumerate(splits):
        for name, predictor in predictors.items():
            logger.info("split %d of %d: %s", number + 1, seeds, name)
            started = time.perf_counter()
            predicted = predictor(labelled, split, seed + number)
            seconds = time.perf_counter() - started
            figures = score(labelled.targets[split.test], predicted, labelled.classes)
            runs[name].append({**figures, "leakage": leakage(labelled, split, reach[name]), "seconds": seconds})
    report = {
        "geovit": __version__,
        "scene": opened.path,
        "labels": labels,
        "protocol": {
            "name": protocol,
            "text": f"{text}, {seeds} seeds",
            "seeds": [seed + i for i in range(seeds)],
            "training_pixels": float(np.mean([split.training.sum() for split in splits])),
            "test_pixels": float(np.mean([split.test.sum() for split in splits])),
            "per_class": per_class,
            **({"block": block, "buffer": buffer} if protocol == "blocks" else {}),
        },
        "classes": [info.name for info in labelled.classes],
        "models": {name: _summary(rows, reach[name], predictors[name].trained) for name, rows in runs.items()},
        "encoder": None if encoder is None else str(encoder),
    }
    if out is not None:
        write_text_atomic(out, json.dumps(report, indent=2, ensure_ascii=False) + "\n", overwrite)
    return Evaluation(report)


def _recipes(
    models: Sequence[str], encoder: str | Path | None, rank: int | None
) -> tuple[dict[str, Recipe], FoundationModel | None]:
    """Return the recipes of the networks by name, and the encoder that some of them adapt."""
    recipes: dict[str, Recipe] = {}
    base = None
    for name in (name for name in models if name not in BASELINES):
        chosen = _ADAPTED.get(name)
        recipe = named_recipe("encoder" if chosen else name)
        if recipe.network == "encoder":
            recipe, base = adapting(recipe, encoder, lora_rank=None if chosen else rank)
            recipe = _adapted(recipe, chosen) if chosen else recipe
        recipes[name] = recipe
    if encoder is not None and base is None:
        raise ValueError(f"an encoder was given, but none of the models ({', '.join(models)}) adapts one: add encoder")
    return recipes, base


def _adapted(recipe: Recipe, adaptation: Adaptation) -> Recipe:
    training = recipe.training
    if adaptation == "scratch":
        training = replace(training, lr=_FROM_SCRATCH * training.lr)
    return replace(recipe, encoder=replace(recipe.encoder, adaptation=adaptation), training=training)


def score(truth: NDArray[np.int64], predicted: NDArray[np.int64], classes: Sequence[ClassInfo]) -> dict[str, Any]:
    """Accuracy figures over the classes that are in the test; the others are named, not counted as zero."""
    everything = np.arange(len(classes))
    matrix = confusion_matrix(truth, predicted, labels=everything)
    present = np.flatnonzero(matrix.sum(1))
    recall = matrix.diagonal()[present] / matrix.sum(1)[present]
    # One class alone agrees by chance as much as by merit: kappa is not defined.
    kappa = cohen_kappa_score(truth, predicted, labels=everything) if len(np.union1d(truth, predicted)) > 1 else None
    f1 = f1_score(truth, predicted, labels=present, average=None, zero_division=0.0)
    return {
        "oa": float((truth == predicted).mean()),
        "aa": float(recall.mean()),
        "kappa": None if kappa is None else float(kappa),
        "f1": {classes[k].name: float(value) for k, value in zip(present.tolist(), f1, strict=True)},
        "absent": [classes[k].name for k in np.setdiff1d(everything, present).tolist()],
        "confusion": matrix.tolist(),
    }


def _summary(rows: list[dict[str, Any]], reach: int, trained: int | None = None) -> dict[str, Any]:
    names = dict.fromkeys(name for row in rows for name in row["f1"])
    figures = {key: _spread([row[key] for row in rows]) for key in ("oa", "aa", "kappa", "leakage", "seconds")}
    f1 = {name: _spread([row["f1"][name] for row in rows if name in row["f1"]]) for name in names}
    return {"reach": reach, "trained": trained, **figures, "f1": f1, "splits": rows}


def _spread(values: list[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    if not known:
        return {"mean": None, "std": None, "splits": 0}
    return {"mean": float(np.mean(known)), "std": float(np.std(known)), "splits": len(known)}


def _count(trained: int | None) -> str:
    return "" if trained is None else f"{trained:,}"


def _figure(spread: dict[str, Any]) -> str:
    return f"{spread['mean']:.3f} ± {spread['std']:.3f}" if spread["splits"] else "undefined"


class _Baseline:
    """A scikit-learn classifier of single spectra."""

    trained: int | None = None

    def __init__(self, name: str) -> None:
        self.make = BASELINES[name]

    def __call__(self, labelled: LabelledScene, split: Split, seed: int) -> NDArray[np.int64]:
        spectra, targets = labelled.spectra(), labelled.targets
        estimator = self.make(targets[split.training], seed=seed).fit(spectra[split.training], targets[split.training])
        return np.asarray(estimator.predict(spectra[split.test]), dtype=np.int64)


class _Network:
    """A network, fitted anew for each split."""

    def __init__(
        self, scene: Scene, recipe: Recipe, source: SceneEncoder | None, device: torch.device, precision: torch.dtype,
        progress: bool,
    ) -> None:  # fmt: skip
        self.scene, self.recipe, self.device, self.precision, self.progress = scene, recipe, device, precision, progress
        self.source = source if recipe.network == "encoder" else None
        self.trained: int | None = None  # parameters of all members, known once one was fitted

    def __call__(self, labelled: LabelledScene, split: Split, seed: int) -> NDArray[np.int64]:
        model = fit(
            self.scene, labelled, split.training, self.recipe, seed=seed, device=self.device, precision=self.precision,
            progress=self.progress, encoder=self.source,
        ).merge()  # fmt: skip
        self.trained = len(model.members) * int(model.info.validation["trained_parameters"])

        def run(x: torch.Tensor) -> torch.Tensor:
            with torch.inference_mode(), autocast(self.device, self.precision):
                probabilities: torch.Tensor = model(x.to(self.device))
                return probabilities

        outputs = at_pixels(run, labelled, split.test, reach=model.receptive_field, window=model.window)
        return outputs.argmax(1).numpy()
