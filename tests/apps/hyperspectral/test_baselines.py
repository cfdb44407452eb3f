import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from geovit.apps.hyperspectral.baselines import logistic


@pytest.mark.parametrize("count", [10, 80])
def test_the_rotation_leaves_the_regression_as_it_is(count):
    random = np.random.default_rng(0)
    targets = np.repeat([0, 1, 2], count)
    values = random.normal(size=(3, 60))[targets] / 3 + random.normal(size=(len(targets), 60))
    plain = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(tol=1e-8, max_iter=10_000)),
        {"logisticregression__C": [0.001, 0.01, 0.1, 1.0, 10.0]},
        cv=3,
    ).fit(values, targets)
    found = logistic(targets, seed=0).fit(values, targets)
    assert found.best_params_ == plain.best_params_
    new = random.normal(size=(500, 60))
    np.testing.assert_allclose(found.predict_proba(new), plain.predict_proba(new), atol=2e-3)
