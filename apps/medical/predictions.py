"""Where predicted label maps come from: files, or a model that segments cases."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...datasets.cases import Case, CaseSet, Fold, make_folds, open_cases, pair_labels, read_case, read_folds, read_pair
from .model import Segmenter
from .plan import Target
from .progress import Bar
from .segmentation import Segmentation

logger = logging.getLogger(__name__)

_SPLITS = "splits.json"  # which geovit fit medical writes beside its models
Labelled = tuple[str, NDArray[np.integer], NDArray[np.integer], tuple[float, ...]]  # name, prediction, truth, spacing


class PredictedMaps:
    """Label maps in files."""

    def __init__(self, predictions: str, labels: str, segmenter: Segmenter | None, targets: Path | None) -> None:
        self.pairs, self.unmatched = pair_labels(predictions, labels)
        if self.unmatched:
            all_ = len(self.pairs) + len(self.unmatched)
            logger.warning(
                "%d of %d labels have no prediction and are left out, such as %s", len(self.unmatched), all_, self.unmatched[0]
            )
        self.told = f"{predictions} against {labels}"
        if segmenter is not None and targets is None:
            self.targets, self.regions, self.origin = segmenter.plan.targets, segmenter.plan.regions, "the model's"
            return
        folder = Path(labels).resolve().parent
        listing = targets or next((f for f in (folder / "dataset.json", folder.parent / "dataset.json") if f.is_file()), None)
        named = None if listing is None else open_cases(listing)
        if named is not None and named.targets is not None:
            self.targets, self.regions, self.origin = _as_targets(named), named.regions, str(listing)
        elif targets is not None:
            raise ValueError(f"{targets} names no targets")
        else:
            values = sorted({int(v) for pair in self.pairs for v in np.unique(read_pair(pair)[1])} - {0})
            if not values:
                raise ValueError(f"{labels} has nothing but background")
            self.targets = tuple(Target(name=str(value), values=(value,), output=value) for value in values)
            self.regions, self.origin = False, f"the values in {labels}"

    def __len__(self) -> int:
        return len(self.pairs)

    def run(self, bar: Bar) -> Iterator[Labelled]:
        """Yield name, prediction, truth and spacing of each case."""
        for pair in self.pairs:
            bar.start(pair.name)
            predicted, truth, volume = read_pair(pair)
            yield pair.name, predicted, truth, volume.spacing
        bar.stop()

    def facts(self) -> dict[str, Any]:
        """Return what the figures depend on here."""
        return {"labels_without_prediction": self.unmatched}


class SegmentedCases:
    """Cases that a model segments."""

    def __init__(self, data: str, path: Path, segmenter: Segmenter, fold: int | None, options: dict[str, Any]) -> None:
        self.path, self.fold = path, fold
        self.targets, self.regions, self.origin = segmenter.plan.targets, segmenter.plan.regions, "the model's"
        case_set = open_cases(data)
        split = _split(case_set, path, segmenter)
        chosen = [case for case in case_set.cases if case.label is not None]
        if fold is not None:
            if split is None:
                raise ValueError(f"no folds are known of {data}: neither {_SPLITS} beside the model nor the data tell them")
            if not 0 <= fold < len(split):
                raise ValueError(f"fold is {fold}: allowed are 0 to {len(split) - 1}")
            chosen = [case for case in chosen if case.name in split[fold].validation]
        if not chosen:
            raise ValueError(f"{data} has no labelled cases" + ("" if fold is None else f" in fold {fold}"))
        self.cases: list[Case] = chosen
        self.trained = _trained(chosen, split, segmenter)
        if self.trained:
            logger.warning("the model was trained on %d of these %d cases: their figures flatter it", self.trained, len(chosen))
        self.told = f"{data} segmented by {path}" + ("" if fold is None else f", validation of fold {fold}")
        self.options = options
        self.segmentation = Segmentation(segmenter, **options)

    def __len__(self) -> int:
        return len(self.cases)

    def run(self, bar: Bar) -> Iterator[Labelled]:
        """Yield name, prediction, truth and spacing of each case."""
        for case in self.cases:
            bar.start(case.name)
            volume, truth = read_case(case)
            assert truth is not None
            yield case.name, self.segmentation(volume, tick=bar.tick).labels, truth, volume.spacing
        bar.stop()

    def facts(self) -> dict[str, Any]:
        """Return what the figures depend on here."""
        slider = self.segmentation.slider
        return {
            "model": {"file": self.path.name, "sha256": hashlib.sha256(self.path.read_bytes()).hexdigest()},
            "fold": self.fold,
            "cases_trained_on": self.trained,
            "overlap": self.options["overlap"],
            "mirror": False,
            "precision": str(slider.dtype).removeprefix("torch."),
            "device": str(slider.device),
        }


def _as_targets(named: CaseSet) -> tuple[Target, ...]:
    return tuple(Target(name=t.name, values=t.values, output=t.output) for t in named.targets or ())


def _split(case_set: CaseSet, path: Path, segmenter: Segmenter) -> Sequence[Fold] | None:
    """Return the folds that the model was trained in, or those of the data; None if nothing tells them."""
    names = [case.name for case in case_set.cases]
    splits = path.parent / _SPLITS
    if splits.is_file():
        listed = json.loads(splits.read_text(encoding="utf-8"))
        known = {name for fold in listed for part in fold.values() for name in part}
        return read_folds(splits, names) if known & set(names) else None  # other cases than those of the training
    if case_set.folds:
        return [Fold(train=tuple(n for n in names if n not in part), validation=part) for part in case_set.folds]
    folds = segmenter.facts.get("training", {}).get("folds")
    return make_folds(names, folds) if folds and 1 < folds <= len(names) else None


def _trained(cases: Sequence[Case], split: Sequence[Fold] | None, segmenter: Segmenter) -> int | None:
    """How many of the cases the model was trained on; None if nothing tells."""
    own = segmenter.facts.get("training", {}).get("fold")
    if split is None or own is None or not 0 <= own < len(split):
        return None
    return sum(case.name in split[own].train for case in cases)
