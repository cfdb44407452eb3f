"""Figures of predictions with confidence intervals, and differences between methods on the same cells."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Figures = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def confusions(targets: NDArray[np.int64], predicted: NDArray[np.int64], unit: NDArray[np.int64], classes: int) -> Figures:
    """Count (units, classes, classes) how often each class was taken for which, in each unit: block or place."""
    units, of_cell = np.unique(unit, return_inverse=True)
    found = np.zeros((len(units), classes, classes))
    np.add.at(found, (of_cell, targets, predicted), 1)
    return found


def balanced_accuracy(matrix: Figures) -> Figures:
    """Mean over the classes that are there of the share found: (..., classes, classes) to (...)."""
    total = matrix.sum(-1)
    recall = np.diagonal(matrix, axis1=-2, axis2=-1) / np.maximum(total, 1e-12)
    there = total > 0
    return np.asarray((recall * there).sum(-1) / np.maximum(there.sum(-1), 1))


def macro_f1(matrix: Figures) -> Figures:
    """Mean F1 over the classes that are there: (..., classes, classes) to (...)."""
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    total, taken = matrix.sum(-1), matrix.sum(-2)
    there = total > 0
    f1 = 2 * hits / np.maximum(total + taken, 1e-12)
    return np.asarray((f1 * there).sum(-1) / np.maximum(there.sum(-1), 1))


def resampled(units: Sequence[int], draws: int, seed: int) -> list[Figures]:
    """Draw bootstrap weights for each stratum: [(draws + 1, units)]; the first of each are 1, the sample itself.

    Args:
        units: how many each stratum has.
        draws: how many samples.
        seed: of the draws; the same seed gives the same samples, so that methods are compared on the same ones.
    """
    random = np.random.default_rng(seed)
    parts = [random.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64) for n in units]
    return [np.concatenate([np.ones((1, n)), part]) for n, part in zip(units, parts, strict=True)]


def stratified(matrices: Sequence[Figures], weights: Sequence[Figures], *, f1: bool = False) -> Figures:
    """Return the mean over strata of a figure of the sample and of each draw, (draws + 1,).

    Args:
        matrices: confusions of each stratum, (units, classes, classes).
        weights: as from ``resampled``.
        f1: macro-F1 instead of the balanced accuracy.
    """
    figure = macro_f1 if f1 else balanced_accuracy
    parts = [figure(np.tensordot(weight, matrix, axes=1)) for matrix, weight in zip(matrices, weights, strict=True)]
    return np.asarray(np.mean(parts, axis=0))


def interval(figures: Figures) -> Interval:
    """Return the first figure with the 2.5 and 97.5 percentiles of the others."""
    low, high = np.percentile(figures[1:], (2.5, 97.5))
    return Interval(float(figures[0]), float(low), float(high))
