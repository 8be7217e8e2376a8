"""Calibration repairs what is distorted and leaves what is right."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from penstock.config import Scoring
from penstock.errors import PenstockError
from penstock.validation.calibration import Calibrated
from penstock.validation.metrics import classification


def classifier(classes: int = 2) -> LogisticRegression:
    x = np.random.default_rng(0).normal(size=(60, 2))
    return LogisticRegression().fit(x, np.arange(60) % classes)


def truth(n: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(1)
    p = draws.beta(1, 3, n)
    return p, (draws.random(n) < p).astype(np.int64)


def error(p: np.ndarray, y: np.ndarray) -> float:
    scoring = Scoring(metric="roc_auc")
    return classification(y, np.column_stack([1 - p, p]), threshold=None, scoring=scoring)[
        "calibration_error"
    ]


def test_honest_scores_stay_as_they_are() -> None:
    p, y = truth()
    made = Calibrated(method="sigmoid").fit_scores(classifier(), p, y)
    assert (made.a_, made.b_) == pytest.approx((1.0, 0.0), abs=0.05)


@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
def test_distorted_scores_are_mended_in_their_order(method: str) -> None:
    p, y = truth()
    odds = p / (1 - p)
    distorted = (4 * odds) ** 2 / (1 + (4 * odds) ** 2)  # log-odds doubled and shifted
    made = Calibrated(method=method).fit_scores(classifier(), distorted, y)  # type: ignore[arg-type]
    mended = made.calibrated(distorted)
    assert error(distorted, y) > 0.1
    assert error(mended, y) < 0.015
    assert (np.diff(mended[np.argsort(distorted)]) >= 0).all()
    if method == "sigmoid":
        assert (made.a_, made.b_) == pytest.approx((0.5, -np.log(4)), abs=0.05)


@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
def test_probabilities_are_probabilities_even_at_the_ends(method: str) -> None:
    p, y = truth(500)
    made = Calibrated(method=method).fit_scores(classifier(), p, y)  # type: ignore[arg-type]
    assert np.isfinite(made.calibrated(np.array([0.0, 1.0]))).all()
    found = made.predict_proba(np.zeros((3, 2)))
    assert found.sum(axis=1) == pytest.approx(np.ones(3))
    assert set(made.predict(np.zeros((3, 2)))) <= {0, 1}


def test_separable_scores_do_not_run_away() -> None:
    scores, y = np.repeat([0.1, 0.9], 10), np.repeat([0, 1], 10)
    made = Calibrated().fit_scores(classifier(), scores, y)
    assert made.calibrated(np.array([0.9])) == pytest.approx([11 / 12], abs=1e-3)  # Platt's target


def test_three_classes_or_one_are_refused() -> None:
    p, y = truth(100)
    with pytest.raises(PenstockError, match="for two classes; this model has 3"):
        Calibrated().fit_scores(classifier(3), p, y)
    with pytest.raises(PenstockError, match="both classes"):
        Calibrated().fit_scores(classifier(), p, np.zeros(100, dtype=np.int64))
