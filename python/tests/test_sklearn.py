from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tidemill

pytest.importorskip("sklearn")
from sklearn.datasets import load_diabetes, load_iris, make_classification
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from tidemill.sklearn import TidemillClassifier, TidemillRegressor

# What the checks ask for and these estimators do not do, with the reason.
EXPECTED: dict[str, dict[str, str]] = {"TidemillClassifier": {}, "TidemillRegressor": {}}


@pytest.fixture(autouse=True, scope="module")
def _needs_the_program(binary: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as m:
        m.setenv("TIDEMILL_BINARY", str(binary))
        yield


def expected(estimator: Any) -> dict[str, str]:
    return EXPECTED[type(estimator).__name__]


@parametrize_with_checks([TidemillClassifier(), TidemillRegressor()], expected_failed_checks=expected)
def test_scikit_learns_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def test_in_a_pipeline_with_cross_validation() -> None:
    X, y = load_iris(return_X_y=True)
    got = cross_val_score(make_pipeline(StandardScaler(), TidemillClassifier()), X, y, cv=3)
    assert got.mean() > 0.9
    X, y = load_diabetes(return_X_y=True)
    assert cross_val_score(TidemillRegressor(), X, y, cv=3).mean() > 0.4


def test_partial_fit_goes_on() -> None:
    X, y = make_classification(600, 8, random_state=1)
    c = TidemillClassifier()
    scores = []
    for at in range(0, 600, 200):
        c.partial_fit(X[at : at + 200], y[at : at + 200], classes=[0, 1])
        scores.append(c.score(X, y))
        assert c.examples_ == at + 200
    assert scores[-1] > 0.75
    with pytest.raises(ValueError, match=r"labels \[7\] that are none of the classes"):
        c.partial_fit(X[:2], [0, 7])
    with pytest.raises(ValueError, match="classes must be passed"):
        TidemillClassifier().partial_fit(X, y)


def test_equal_fits_give_equal_bits_and_pickles_answer() -> None:
    X, y = make_classification(300, 6, random_state=2)
    a, b = TidemillClassifier("mlp", epochs=3).fit(X, y), TidemillClassifier("mlp", epochs=3).fit(X, y)
    assert np.array_equal(a.predict_proba(X), b.predict_proba(X))
    assert np.array_equal(pickle.loads(pickle.dumps(a)).predict(X), a.predict(X))


def test_what_cannot_be_fitted_is_said() -> None:
    X, y = make_classification(50, 4, random_state=2, n_redundant=0)
    with pytest.raises(ValueError, match="contains NaN"):
        TidemillClassifier().fit(X, np.where(np.arange(50) == 3, np.nan, y))
    with pytest.raises(tidemill.InvalidError, match=r"architecture.kind: .*logistc.*did you mean logistic"):
        TidemillClassifier("logistc").fit(X, y)
    with pytest.raises(tidemill.InvalidError, match="epochs=0"):
        TidemillRegressor(epochs=0).fit(X, y)
    with pytest.raises(tidemill.NotFoundError, match="no node has run"):
        TidemillRegressor(url="./nowhere").fit(X, y)
