"""Probes: simple classifiers on features that stay as they are."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

Features = NDArray[np.float32]
Indices = NDArray[np.int64]
Predictor = Callable[[Features], Indices]

_C = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_INNER = 3
_STEPS = 500
_NEIGHBOURS, _TEMPERATURE = 20, 0.07


def linear_probe(candidates: Sequence[Features], targets: Indices, groups: Indices) -> tuple[int, Predictor]:
    """Fit logistic regression on standardised features, classes weighted equally.

    The strength of the regularisation, and which of the candidate features, are chosen by cross-validation over groups of the
    training cells alone, by balanced accuracy; the smallest C wins among equals.

    Args:
        candidates: features of the training cells, (cells, features) each.
        targets: their classes.
        groups: blocks, which are not divided in the cross-validation.

    Returns:
        Which of the candidates, and what predicts classes from features like it.
    """
    parts = _inner_parts(targets, groups)
    best, chosen = -1.0, (0, _C[len(_C) // 2])
    for which, features in enumerate(candidates) if parts else ():
        scores = np.mean([_path(features, targets, part) for part in parts], axis=0)
        for c, score in zip(_C, scores.tolist(), strict=True):
            if score > best + 1e-9:
                best, chosen = score, (which, c)
    which, c = chosen
    scaler = StandardScaler().fit(candidates[which])
    model = _regression(c)
    _fit(model, scaler.transform(candidates[which]), targets)
    return which, lambda features: np.asarray(model.predict(scaler.transform(features)), dtype=np.int64)


def neighbour_probe(features: Features, targets: Indices) -> Predictor:
    """Let the 20 most similar training cells vote, each by exp(cosine / 0.07), as SMARTIES' protocol has it.

    Features are standardised by the training cells first: those of references are in units of their own.
    """
    scaler = StandardScaler().fit(features)
    classes = int(targets.max()) + 1
    kept = _unit(scaler.transform(features))
    count = min(_NEIGHBOURS, len(kept))

    def predict(asked: Features) -> Indices:
        similar = _unit(scaler.transform(asked)) @ kept.T
        nearest = np.argpartition(-similar, count - 1, axis=1)[:, :count]
        weight = np.exp((np.take_along_axis(similar, nearest, axis=1) - 1) / _TEMPERATURE)
        votes = np.zeros((len(asked), classes))
        np.add.at(votes, (np.arange(len(asked))[:, None], targets[nearest]), weight)
        return np.asarray(votes.argmax(axis=1), dtype=np.int64)

    return predict


def _inner_parts(targets: Indices, groups: Indices) -> list[NDArray[np.bool_]]:
    """Masks of validation cells: groups in turn, the same for every feature. None if that would leave a class or two out."""
    own = np.unique(groups)
    if len(own) < _INNER:
        return []
    turn = np.random.default_rng(0).permutation(len(own)) % _INNER
    parts = [np.isin(groups, own[turn == k]) for k in range(_INNER)]
    return [part for part in parts if part.any() and len(np.unique(targets[~part])) > 1]


def _path(features: Features, targets: Indices, validation: NDArray[np.bool_]) -> list[float]:
    """Balanced accuracy on the validation cells for each C; each fit starts from the one before."""
    scaler = StandardScaler().fit(features[~validation])
    known, asked = scaler.transform(features[~validation]), scaler.transform(features[validation])
    model, scores = _regression(_C[0]), []
    for c in _C:
        _fit(model.set_params(C=c), known, targets[~validation])
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # a class that is predicted and not there counts for nothing, as it should
            scores.append(float(balanced_accuracy_score(targets[validation], model.predict(asked))))
    return scores


def _regression(c: float) -> LogisticRegression:
    return LogisticRegression(C=c, max_iter=_STEPS, class_weight="balanced", warm_start=True)


def _fit(model: LogisticRegression, features: Features, targets: Indices) -> None:
    with warnings.catch_warnings():
        # Separable classes have no optimum without regularisation to speak of; predictions do not change any more.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # Hundreds of small products: a second thread gains little, and where it has to wait for a core, each product waits.
        with threadpool_limits(1, user_api="blas"):
            model.fit(features, targets)


def _unit(values: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12))
