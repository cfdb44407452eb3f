"""Where predicted label maps come from: files, or a model that segments cases."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...datasets.cases import (
    SPLITS,
    Case,
    CaseSet,
    Fold,
    make_folds,
    open_cases,
    pair_labels,
    read_case,
    read_pair,
    read_split,
    split_digest,
)
from ...datasets.identity import sha256
from .model import Segmenter
from .plan import Target
from .progress import Bar
from .segmentation import Segmentation

logger = logging.getLogger(__name__)

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
        own = read_split(path.parent / SPLITS) or _made_again(case_set, segmenter)
        chosen = [case for case in case_set.cases if case.label is not None]
        if fold is not None:
            names = _validating(case_set, fold, own)
            chosen = [case for case in chosen if case.name in names]
        if not chosen:
            raise ValueError(f"{data} has no labelled cases" + ("" if fold is None else f" in fold {fold}"))
        self.cases: list[Case] = chosen
        trained_in = segmenter.facts.get("training", {}).get("fold")
        known = trained_in is not None and 0 <= trained_in < len(own)
        self.trained = sum(case.name in own[trained_in].train for case in chosen) if known else None
        if self.trained:
            told = f"{self.trained} of these {len(chosen)} cases, by their names"
            logger.warning("the model was trained on %s: their figures flatter it", told)
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
        order = self.segmentation.segmenter.facts.get("merging_order")  # of a checkpoint, and what it is known from
        return {
            "model": {
                "file": self.path.name,
                "sha256": sha256(self.path),
                **({"merging_order": order} if order else {}),
            },
            "fold": self.fold,
            "cases_trained_on": self.trained,
            "overlap": self.options["overlap"],
            "mirror": False,
            "precision": str(slider.dtype).removeprefix("torch."),
            "device": str(slider.device),
        }


def _as_targets(named: CaseSet) -> tuple[Target, ...]:
    return tuple(Target(name=t.name, values=t.values, output=t.output) for t in named.targets or ())


def _made_again(case_set: CaseSet, segmenter: Segmenter) -> list[Fold]:
    """Return the folds of a model whose file lies alone, made as its training made them; none if it was of other cases."""
    try:
        made = make_folds([case.name for case in case_set.cases], segmenter.facts.get("training", {}).get("folds") or 0)
    except ValueError:  # not so many subjects
        return []
    return made if split_digest(made) == segmenter.facts.get("split") else []


def _validating(case_set: CaseSet, fold: int, own: Sequence[Fold]) -> tuple[str, ...]:
    """Return the names of the cases that validate in a fold: of the training, or else of the data.

    Raises:
        ValueError: if nothing tells of folds, or there is no such fold.
    """
    names = [case.name for case in case_set.cases]
    parts = [fold.validation for fold in own if fold.validation] or list(case_set.folds)
    if not 0 <= fold < len(parts):
        raise ValueError(
            f"fold is {fold}: " + (f"allowed are 0 to {len(parts) - 1}" if parts else "nothing tells how cases were split")
        )
    if gone := sorted(set(parts[fold]) - set(names)):
        raise ValueError(f"fold {fold} has cases that are not in the data, such as {gone[0]}")
    return parts[fold]
