"""Methods compared on the same cells: folds, probes, figures, differences."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .cells import Cells, Fold
from .probes import Features, linear_probe, neighbour_probe
from .scoring import Figures, Interval, confusions, interval, resampled, stratified

Probe = Literal["linear", "knn"]
_FEW_PLACES = 10  # below, places are too few to draw from, and blocks are drawn within each


@dataclass(frozen=True, eq=False)
class Method:
    """Features that a probe is given.

    Args:
        name: for the table.
        runs: one for each seed; each has candidates of which the linear probe takes one by cross-validation, each
            (cells, features).
    """

    name: str
    runs: Sequence[Sequence[Features]]


@dataclass(frozen=True, eq=False)
class Study:
    """Figures of methods.

    Args:
        accuracy, f1: by probe and method; the mean over seeds, then over places.
        differences: by probe and method, the first method's balanced accuracy minus this one's, on the same draws.
        places: balanced accuracy by probe, method and place.
        tested: cells that tested, by place.
        trained: cells that trained in each fold, the mean.
        unseen: classes that were in tested areas, and in no training cell of their fold, by place.
        unit: of the bootstrap, in words.
    """

    accuracy: Mapping[str, Mapping[str, Interval]]
    f1: Mapping[str, Mapping[str, Interval]]
    differences: Mapping[str, Mapping[str, Interval]]
    places: Mapping[str, Mapping[str, Mapping[str, float]]]
    tested: Mapping[str, Mapping[str, int]]
    trained: float
    unseen: Mapping[str, tuple[str, ...]]
    unit: str


def predict(
    cells: Cells,
    folds: Sequence[Fold],
    candidates: Sequence[Features],
    probe: Probe,
    *,
    groups: NDArray[np.int64],
    asked: Sequence[Features] | None = None,
) -> NDArray[np.int64]:
    """Return the class of each cell that tests in one of the folds, -1 for the others.

    Args:
        cells: with their classes; those of cells that test are not looked at.
        folds: which train and test.
        candidates: features, of all cells.
        probe: linear, or knn, which takes the last of the candidates.
        groups: blocks of cells.
        asked: features of the cells that test, where those are others than the probe is trained on: another sensor's.
    """
    predicted = np.full(len(cells.targets), -1, dtype=np.int64)
    asked = candidates if asked is None else asked
    for fold in folds:
        train = np.flatnonzero(fold.training)
        targets = cells.targets[train]
        if probe == "linear":
            which, predictor = linear_probe([features[train] for features in candidates], targets, groups[train])
        else:
            which, predictor = len(candidates) - 1, neighbour_probe(candidates[-1][train], targets)
        predicted[fold.test] = predictor(asked[which][fold.test])
    return predicted


class Scorer:
    """Figures of predictions on the same cells and the same draws.

    Places have equal weight. Cells beside each other are alike, so what is drawn again and again is blocks of cells within each
    place, or whole places where there are ten or more.

    Args:
        cells: all of them.
        folds: of the protocol.
        groups: block of each cell.
        draws: of the bootstrap.
        seed: of the draws.
    """

    def __init__(self, cells: Cells, folds: Sequence[Fold], *, groups: NDArray[np.int64], draws: int, seed: int) -> None:
        self.cells = cells
        test = np.any([fold.test for fold in folds], axis=0)
        place = cells.place
        self.strata = [int(k) for k in np.unique(place[test])]
        self.by_place = len(self.strata) >= _FEW_PLACES
        self._members = [np.flatnonzero(test & (place == k)) for k in self.strata]
        self._groups = groups
        counts = [len(np.unique(groups[members])) for members in self._members]
        self._weights = resampled([len(self.strata)] if self.by_place else counts, draws, seed)

    @property
    def unit(self) -> str:
        """What is drawn, in words."""
        return "places" if self.by_place else "blocks within each place"

    def figures(self, predicted: NDArray[np.int64], *, f1: bool = False) -> Figures:
        """Balanced accuracy, or macro-F1, of the sample and of each draw, (draws + 1,)."""
        matrices = self._matrices(predicted)
        if not self.by_place:
            return stratified(matrices, self._weights, f1=f1)
        whole = [np.ones((1, len(matrix))) for matrix in matrices]
        each = np.array([stratified([m], [w], f1=f1)[0] for m, w in zip(matrices, whole, strict=True)])
        return np.asarray(self._weights[0] @ each / len(each))

    def by_place_name(self, predicted: NDArray[np.int64]) -> dict[str, float]:
        """Balanced accuracy of each place."""
        return {
            self.cells.places[k]: float(stratified([matrix], [np.ones((1, len(matrix)))])[0])
            for k, matrix in zip(self.strata, self._matrices(predicted), strict=True)
        }

    def tested(self) -> dict[str, dict[str, int]]:
        """Cells that test, by place and class."""
        classes = self.cells.classes
        return {
            self.cells.places[k]: {classes[c]: int((self.cells.targets[m] == c).sum()) for c in np.unique(self.cells.targets[m])}
            for k, m in zip(self.strata, self._members, strict=True)
        }

    def _matrices(self, predicted: NDArray[np.int64]) -> list[Figures]:
        targets, count = self.cells.targets, len(self.cells.classes)
        return [confusions(targets[m], predicted[m], self._groups[m], count) for m in self._members]


def compare(
    cells: Cells,
    folds: Sequence[Fold],
    methods: Sequence[Method],
    *,
    probes: Sequence[Probe],
    block: int,
    draws: int,
    seed: int,
    tick: Callable[[str], None] | None = None,
) -> Study:
    """Probe each method's features on the same folds; the first method is compared with each of the others.

    Args:
        cells: with classes.
        folds: which train and test.
        methods: the one of interest first.
        probes: which.
        block: cells on a side of the blocks that are drawn, and kept together when C is chosen.
        draws: of the bootstrap.
        seed: of the draws.
        tick: is called with the name of each method when it is done.
    """
    groups = cells.blocks(block)
    scorer = Scorer(cells, folds, groups=groups, draws=draws, seed=seed)
    accuracy: dict[str, dict[str, Interval]] = {probe: {} for probe in probes}
    f1: dict[str, dict[str, Interval]] = {probe: {} for probe in probes}
    differences: dict[str, dict[str, Interval]] = {probe: {} for probe in probes}
    places: dict[str, dict[str, dict[str, float]]] = {probe: {} for probe in probes}
    first: dict[str, Figures] = {}
    for method in methods:
        for probe in probes:
            runs = [predict(cells, folds, run, probe, groups=groups) for run in method.runs]
            figures = np.mean([scorer.figures(run) for run in runs], axis=0)
            accuracy[probe][method.name] = interval(figures)
            f1[probe][method.name] = interval(np.mean([scorer.figures(run, f1=True) for run in runs], axis=0))
            each = [scorer.by_place_name(run) for run in runs]
            places[probe][method.name] = {name: float(np.mean([one[name] for one in each])) for name in each[0]}
            if probe in first:
                differences[probe][method.name] = interval(first[probe] - figures)
            else:
                first[probe] = figures
        if tick is not None:
            tick(method.name)
    return Study(
        accuracy, f1, differences, places, scorer.tested(), float(np.mean([fold.training.sum() for fold in folds])),
        dict(_unseen(cells, folds)), scorer.unit,
    )  # fmt: skip


def _unseen(cells: Cells, folds: Sequence[Fold]) -> Iterator[tuple[str, tuple[str, ...]]]:
    place = cells.place
    for k, name in enumerate(cells.places):
        found = {c for fold in folds if (fold.test & (place == k)).any() for c in fold.unseen}
        if found:
            yield name, tuple(sorted(found))
