"""`geovit evaluate medical`: Dice, HD95 and surface Dice of label maps or of a model, with the protocol beside the figures."""

import csv
import io
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Group
from rich.table import Table

from ... import __version__
from ...core.precision import Precision
from ...datasets import check_writable, write_text_atomic
from .metrics import EMPTY_RULES, Empty, Score, measure, predicted_values, true_values
from .models import model_file, open_segmenter
from .predictions import PredictedMaps, SegmentedCases
from .progress import progress_bar
from .summary import CONFIDENCE, compare, summarise
from .swin_encoder import MergingOrder


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Figures of all cases, as in the JSON file."""

    report: dict[str, Any]

    def __rich__(self) -> Group:
        """The protocol, a row for each target and one for their mean; then the differences from another report."""
        report = self.report
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("target", no_wrap=True)
        for heading in ("Dice", "HD95 mm", "surface Dice", "ml", "true ml", "empty"):
            table.add_column(heading, justify="right")
        for name, row in report["summary"].items():
            figures = [_cell(row[metric], digits) for metric, digits in _DIGITS.items()]
            if name != "mean":
                volumes = [f"{row[volume]:.2f}" for volume in ("predicted_ml", "truth_ml")]
                figures += [*volumes, "{both} both, {truth} truth, {prediction} prediction".format(**row["missing"])]
            table.add_row(name, *figures)
        parts: list[Any] = [*report["protocol"]["text"], "", table]
        if "difference" in report:
            parts += ["", f"difference from {report['compared_with']}, case by case:", _differences(report["difference"])]
        return Group(*parts)


_DIGITS = {"dice": 4, "hd95": 2, "surface_dice": 4}


def _cell(figure: Mapping[str, Any], digits: int, sign: str = "") -> str:
    if figure["mean"] is None:
        return "-"
    interval = "" if figure["low"] is None else f" ({figure['low']:{sign}.{digits}f} to {figure['high']:{sign}.{digits}f})"
    return f"{figure['mean']:{sign}.{digits}f}{interval}"


def _differences(difference: Mapping[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("target", no_wrap=True)
    for heading in ("Dice", "HD95 mm", "surface Dice", "cases"):
        table.add_column(heading, justify="right")
    for name, row in difference.items():
        table.add_row(name, *(_cell(row[metric], digits, "+") for metric, digits in _DIGITS.items()), str(row["dice"]["cases"]))
    return table


def evaluate(
    inputs: Sequence[str],
    *,
    model: Path | None = None,
    plan: str | None = None,
    merging_order: MergingOrder | None = None,
    fold: int | None = None,
    targets: Path | None = None,
    tolerance: float = 1.0,
    empty: Empty = "nan",
    compared: Path | None = None,
    overlap: float = 0.5,
    device: str = "auto",
    precision: Precision = "auto",
    out: Path | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Evaluation:
    """Measure label maps against true ones: geovit evaluate medical PREDICTIONS LABELS; or a model: DATA --model MODEL.

    PREDICTIONS and LABELS are two folders with files of the same names (NAME_seg.nii.gz of geovit segment belongs to NAME.nii.gz)
    or two files. DATA is what geovit fit medical takes; each labelled case is segmented as geovit segment does. All is measured
    on the label's own grid, in millimetres.

    Args:
        inputs: two inputs, PREDICTIONS and LABELS, or one, DATA.
        model: the folder or a file that geovit fit medical wrote, or a checkpoint of MONAI's Swin UNETR (.pt), with a plan;
            beside PREDICTIONS and LABELS, it only names classes and regions.
        plan: of a checkpoint, as of geovit segment: btcv, brats21, or a YAML or JSON file.
        merging_order: of a checkpoint that does not tell it: legacy if it was trained with MONAI before 1.5, else fixed.
        fold: segment the cases that validated in this fold, counted from 0. Default: all labelled cases.
        targets: a dataset.json that names classes or regions. Default: those of the model, or of a dataset.json beside LABELS, or
            each value in LABELS.
        tolerance: of surface Dice, mm.
        empty: what holds where a target is not in the truth, the prediction or both: nan (nothing to say about nothing: left
            out), monai, one or brats; the rule is told with the figures.
        compared: JSON file that this command wrote of other predictions; the differences case by case are shown.
        overlap: share of a window that the next one covers again, where a model segments.
        device: auto, cpu, cuda, cuda:1 or mps.
        precision: auto, fp32, bf16 or fp16.
        out: file to write: .json for all, .csv for a line for each case and target.
        overwrite: replace that file.
        progress: show progress bars.

    Returns:
        The figures.

    Raises:
        ValueError: anything wrong with the input; one line that says what was given and what is allowed.
        OSError: a file is missing, or cannot be written.
    """
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"tolerance is {tolerance}: expected 0 mm or more")
    if out is not None:
        if out.suffix not in (".json", ".csv"):
            raise ValueError(f"{out}: expected a name that ends in .json or .csv")
        check_writable([out], overwrite)
    other = None if compared is None else _other(compared, tolerance, empty)
    if model is None and (plan is not None or merging_order is not None):
        raise ValueError("plan and merging_order are of a model: give model, too")
    model = None if model is None else model_file(model)
    segmenter = None if model is None else open_segmenter(model, plan, merging_order)
    if len(inputs) == 2:
        if fold is not None:
            raise ValueError("a fold is of DATA, which a model segments; PREDICTIONS are all measured")
        source: PredictedMaps | SegmentedCases = PredictedMaps(inputs[0], inputs[1], segmenter, targets)
    elif len(inputs) == 1 and model is not None and segmenter is not None:
        if targets is not None:
            raise ValueError("the targets are those of the model: leave them out")
        source = SegmentedCases(inputs[0], model, segmenter, fold, {"overlap": overlap, "device": device, "precision": precision})
    else:
        raise ValueError(f"{len(inputs)} inputs: expected PREDICTIONS and LABELS, or DATA and --model")
    started = time.perf_counter()
    cases: list[dict[str, Any]] = []
    scores: list[dict[str, Score]] = []
    with progress_bar(progress, len(source)) as bar:
        for name, predicted, truth, spacing in source.run(bar):
            _check_values(name, "prediction", predicted, predicted_values(source.targets))
            _check_values(name, "label", truth, true_values(source.targets))
            found = measure(predicted, truth, source.targets, source.regions, spacing, tolerance=tolerance, empty=empty)
            scores.append(found)
            figures = {target: _plain(asdict(score)) for target, score in found.items()}
            cases.append({"name": name, "size": list(truth.shape), "spacing": list(spacing), "targets": figures})
    report: dict[str, Any] = {
        "geovit": __version__,
        "inputs": list(inputs),
        "protocol": _protocol(source, scores, tolerance, empty),
        "summary": summarise(scores),
        "seconds": round(time.perf_counter() - started, 3),
        "cases": cases,
    }
    if other is not None:
        own = {case["name"]: case["targets"] for case in cases}
        report["compared_with"] = str(compared)
        report["difference"] = compare(own, other, [target.name for target in source.targets])
    if out is not None:
        text = _csv(cases) if out.suffix == ".csv" else json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_text_atomic(out, text, overwrite)
    return Evaluation(report)


def _protocol(
    source: PredictedMaps | SegmentedCases, scores: Sequence[Mapping[str, Score]], tolerance: float, empty: Empty
) -> dict[str, Any]:
    """Return all that the figures depend on beside images and labels."""
    touched = sum(score.missing is not None for case in scores for score in case.values())
    text = [
        f"{len(scores)} case{'s' if len(scores) > 1 else ''}, {source.told}; targets: {source.origin}",
        "HD95: 95th percentile of the distances between surface voxels in each direction, the greater of both",
        f"surface Dice: share of the surface voxels of both that are within {tolerance:g} mm of the other surface",
        f"empty masks ({empty}): {EMPTY_RULES[empty]}; {touched} of {sum(map(len, scores))} figures",
        f"mean over cases (confidence: {CONFIDENCE})",
    ]
    return {
        "text": text,
        "cases": len(scores),
        "dice": "2 |A and B| / (|A| + |B|), voxels",
        "hd95": "mm between centres of surface voxels, 95th percentile (linear) of each direction, the greater of both",
        "surface_dice": "surface voxels of both within the tolerance of the other surface, by all; not weighted by area",
        "surface": "voxels with a neighbour across a face outside the mask or the image",
        "tolerance_mm": tolerance,
        "empty": {"rule": empty, "text": EMPTY_RULES[empty], "figures": touched},
        "grid": "the label's own, spacing of its file",
        "confidence": CONFIDENCE,
        "mean": "over targets, of the means over cases",
        "regions": source.regions,
        "targets": [{"name": t.name, "values": list(t.values), "output": t.output} for t in source.targets],
        "targets_from": source.origin,
        **source.facts(),
    }


def _check_values(case: str, what: str, labels: NDArray[np.integer], allowed: set[int]) -> None:
    if strange := sorted(set(np.unique(labels).tolist()) - allowed):
        told = ", ".join(map(str, strange[:5])) + (", ..." if len(strange) > 5 else "")
        raise ValueError(f"{case}: the {what} has the values {told}; allowed are {', '.join(map(str, sorted(allowed)))}")


def _plain(score: dict[str, Any]) -> dict[str, Any]:
    """Replace not-a-number by None: JSON has no word for it."""
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in score.items()}


def _csv(cases: Sequence[Mapping[str, Any]]) -> str:
    stream = io.StringIO()
    lines = csv.writer(stream, lineterminator="\n")
    lines.writerow(["case", "target", "dice", "hd95_mm", "surface_dice", "predicted_ml", "truth_ml", "empty"])
    for case in cases:
        for target, score in case["targets"].items():
            lines.writerow([case["name"], target, *(("" if value is None else value) for value in score.values())])
    return stream.getvalue()


def _other(path: Path, tolerance: float, empty: Empty) -> dict[str, Any]:
    """Read the figures of another report, by case."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        told = report["protocol"]["tolerance_mm"], report["protocol"]["empty"]["rule"]
        figures = {case["name"]: case["targets"] for case in report["cases"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no report of geovit evaluate medical") from error
    if told != (tolerance, empty):
        raise ValueError(
            f"{path} was measured with tolerance {told[0]:g} mm and empty {told[1]}, not {tolerance:g} mm and {empty}"
        )
    return figures
