"""Means over cases with their confidence, and the difference of two methods on the same cases."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .metrics import Score

METRICS = ("dice", "hd95", "surface_dice")
CONFIDENCE = "95 %, percentiles of 10,000 bootstrap samples of the cases, seed 0"
_SAMPLES = 10_000

Figure = dict[str, float | int | None]


def summarise(scores: Sequence[Mapping[str, Score]]) -> dict[str, dict[str, Any]]:
    """Return the figures of each target, and of their mean under "mean".

    Args:
        scores: of each case, by target.

    Returns:
        By target: for each metric "mean", "low" and "high" (of the mean's confidence interval; None below two cases), "std" (over
        cases) and "cases" (that are not left out); mean volumes; and "missing", how many cases had an empty mask, by which was
        empty. Under "mean" the metrics' mean over targets, with its confidence interval.
    """
    names = list(scores[0])
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    overall: dict[str, Any] = {}
    for metric in METRICS:
        values = _table([[getattr(score[name], metric) for name in names] for score in scores])
        for name, figure in zip(names, _figures(values), strict=True):
            found[name][metric] = figure
        overall[metric] = _mean_of(values)
    for name in names:
        column = [score[name] for score in scores]
        for volume in ("predicted_ml", "truth_ml"):
            found[name][volume] = float(np.mean([getattr(score, volume) for score in column]))
        found[name]["missing"] = {
            which: sum(score.missing == which for score in column) for which in ("both", "truth", "prediction")
        }
    return {**found, "mean": overall}


def compare(own: Mapping[str, Any], others: Mapping[str, Any], targets: Sequence[str]) -> dict[str, dict[str, Figure]]:
    """Return the mean of the differences case by case, own minus others, by target and metric.

    Args:
        own, others: by case and target the metrics, None where they are left out: then the case counts in neither.

    Raises:
        ValueError: if the cases or targets are not the same.
    """
    if own.keys() != others.keys():
        apart = sorted(own.keys() ^ others.keys())
        raise ValueError(f"{len(apart)} cases are in one of both reports only, such as {apart[0]}: expected the same cases")
    if wanting := [name for name in targets if any(name not in case for case in others.values())]:
        raise ValueError(f"the other report has no figures of {wanting[0]}: expected the same targets")
    found: dict[str, dict[str, Figure]] = {name: {} for name in targets}
    for metric in METRICS:
        tables = [
            _table([[case[name][metric] for name in targets] for _, case in sorted(both.items())]) for both in (own, others)
        ]
        for name, figure in zip(targets, _figures(tables[0] - tables[1]), strict=True):
            found[name][metric] = figure
    return found


def _table(rows: Sequence[Sequence[float | None]]) -> NDArray[np.float64]:
    return np.array([[math.nan if value is None else value for value in row] for row in rows], np.float64)


def _figures(values_NT: NDArray[np.float64]) -> list[Figure]:
    """Summarise each column without what is left out."""
    samples = _resampled(values_NT)
    return [
        _figure(column[~np.isnan(column)], sample[~np.isnan(sample)])
        for column, sample in zip(values_NT.T, samples.T, strict=True)
    ]


def _figure(values: NDArray[np.float64], samples: NDArray[np.float64]) -> Figure:
    if not len(values):
        return {"mean": None, "low": None, "high": None, "std": None, "cases": 0}
    low, high = np.percentile(samples, (2.5, 97.5)) if len(values) > 1 else (None, None)
    return {
        "mean": float(values.mean()),
        "low": None if low is None else float(low),
        "high": None if high is None else float(high),
        "std": float(values.std(ddof=1)) if len(values) > 1 else None,
        "cases": len(values),
    }


def _mean_of(values_NT: NDArray[np.float64]) -> Figure:
    """Return the mean over targets of their means over cases; a target without any figure is left out."""
    some = ~np.isnan(values_NT).all(axis=0)
    if not some.any():
        return {"mean": None, "low": None, "high": None, "targets": 0}
    mean = float(np.nanmean(values_NT[:, some], axis=0).mean())
    samples = _resampled(values_NT[:, some])
    samples = samples[~np.isnan(samples).any(axis=1)].mean(axis=1)
    low, high = np.percentile(samples, (2.5, 97.5)).tolist() if len(values_NT) > 1 and len(samples) else (None, None)
    return {"mean": mean, "low": low, "high": high, "targets": int(some.sum())}


def _resampled(values_NT: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means over cases drawn with replacement, (samples, targets); not-a-number where none drawn has a figure."""
    cases = len(values_NT)
    drawn_SN = np.random.default_rng(0).multinomial(cases, [1 / cases] * cases, size=_SAMPLES).astype(np.float64)
    present = ~np.isnan(values_NT)
    with np.errstate(invalid="ignore"):
        means: NDArray[np.float64] = (drawn_SN @ np.where(present, values_NT, 0.0)) / (drawn_SN @ present.astype(np.float64))
    return means
