"""Classifiers of single pixels from scikit-learn, to measure the networks against.

It is imported where one is made: a process that maps with a network needs none of it.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

_C = [1.0, 10.0, 100.0]  # the range in which the best value lay on every scene tried
_LINEAR_C = [0.001, 0.01, 0.1, 1.0, 10.0]  # likewise
_FOLDS = 3
_FEW = 150  # pixels up to which Newton's method is faster (measured with 314 features of 6 classes)


def svm(targets: NDArray[np.int64], *, seed: int) -> "BaseEstimator":
    """Return standardisation and an RBF support vector machine whose C is chosen by cross-validation on the training pixels.

    A class too small for the folds leaves C at its middle value.
    """
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    if np.unique(targets, return_counts=True)[1].min() < _FOLDS:
        return make_pipeline(StandardScaler(), SVC(C=_C[1], random_state=seed))
    return GridSearchCV(make_pipeline(StandardScaler(), SVC(random_state=seed)), {"svc__C": _C}, cv=_FOLDS)


def logistic(targets: NDArray[np.int64], *, seed: int) -> "BaseEstimator":
    """Return standardisation, rotation and logistic regression whose C is chosen by cross-validation on the training pixels.

    The rotation changes nothing but the time: it leaves out directions in which no training pixel lies, to which the regression
    gives no weight. What is left of few pixels is small enough for Newton's method. A class too small for the folds leaves C at
    its middle value.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    del seed  # nothing is drawn
    solver = "newton-cholesky" if len(targets) <= _FEW else "lbfgs"
    regression = LogisticRegression(C=_LINEAR_C[2], solver=solver, max_iter=2000)
    steps = make_pipeline(StandardScaler(), PCA(svd_solver="full"), regression)
    if np.unique(targets, return_counts=True)[1].min() < _FOLDS:
        return steps
    return GridSearchCV(steps, {"logisticregression__C": _LINEAR_C}, cv=_FOLDS)


def forest(targets: NDArray[np.int64], *, seed: int) -> "BaseEstimator":
    """Return a random forest of 500 trees; ``targets`` are not needed to set it up."""
    from sklearn.ensemble import RandomForestClassifier

    del targets
    return RandomForestClassifier(500, random_state=seed, n_jobs=-1)


BASELINES = {"svm": svm, "logistic": logistic, "forest": forest}
