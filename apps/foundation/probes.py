"""Probes: simple classifiers on features that stay as they are."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

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
        for c in _C:
            score = float(np.mean([_score(features, targets, part, c) for part in parts]))
            if score > best + 1e-9:
                best, chosen = score, (which, c)
    which, c = chosen
    model = _fitted(candidates[which], targets, c)
    return which, lambda features: np.asarray(model.predict(features), dtype=np.int64)


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


def _score(features: Features, targets: Indices, validation: NDArray[np.bool_], c: float) -> float:
    predicted = _fitted(features[~validation], targets[~validation], c).predict(features[validation])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class that is predicted and not there counts for nothing, as it should
        return float(balanced_accuracy_score(targets[validation], predicted))


def _fitted(features: Features, targets: Indices, c: float) -> Pipeline:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=_STEPS, class_weight="balanced"))
    with warnings.catch_warnings():
        # Separable classes have no optimum without regularisation to speak of; predictions do not change any more.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, targets)
    return model


def _unit(values: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12))
