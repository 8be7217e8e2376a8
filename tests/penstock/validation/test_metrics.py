"""Metrics equal scikit-learn's where it has them, and stay silent where they have no value."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given
from hypothesis import strategies as st

from penstock.config import Costs, Scoring
from penstock.validation import metrics

SCORING = Scoring(metric="roc_auc", beta=2.0, costs=Costs(false_positive=1, false_negative=5))


def binary(seed: int, rows: int = 200) -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(seed)
    y = np.append([0, 1], draws.integers(0, 2, rows - 2))
    p = np.clip(draws.random(rows).round(2) * 0.8 + y * 0.15, 0.01, 0.99)  # rounded: with ties
    return y, np.column_stack([1 - p, p])


@given(seed=st.integers(0, 10_000), threshold=st.floats(0.05, 0.95))
def test_binary_metrics_equal_scikit_learn(seed: int, threshold: float) -> None:
    y, p = binary(seed)
    chosen = (p[:, 1] >= threshold).astype(int)
    expected = {
        "accuracy": reference.accuracy_score(y, chosen),
        "balanced_accuracy": reference.balanced_accuracy_score(y, chosen),
        "precision": reference.precision_score(y, chosen, zero_division=0),
        "recall": reference.recall_score(y, chosen),
        "f1": reference.f1_score(y, chosen),
        "f_beta": reference.fbeta_score(y, chosen, beta=2),
        "mcc": reference.matthews_corrcoef(y, chosen),
        "cost": np.mean((chosen == 1) & (y == 0)) + 5 * np.mean((chosen == 0) & (y == 1)),
        "roc_auc": reference.roc_auc_score(y, p[:, 1]),
        "pr_auc": reference.average_precision_score(y, p[:, 1]),
        "log_loss": reference.log_loss(y, p),
        "brier": reference.brier_score_loss(y, p[:, 1]),
    }
    found = metrics.classification(y, p, threshold=threshold, scoring=SCORING)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_default_metrics_stand_beside_those_at_a_tuned_threshold() -> None:
    y, p = binary(0)
    tuned = metrics.classification(y, p, threshold=0.3, scoring=SCORING)
    default = metrics.classification(y, p, threshold=None, scoring=SCORING)
    assert {name: tuned[f"{name}_default"] for name in metrics.THRESHOLDED} == {
        name: default[name] for name in metrics.THRESHOLDED
    }
    assert set(tuned) == set(metrics.names("binary", tuned=True))
    assert set(default) == set(metrics.names("binary", tuned=False))


def test_multiclass_metrics_are_macro_averages() -> None:
    draws = np.random.default_rng(1)
    y, p = draws.integers(0, 3, 300), draws.dirichlet(np.ones(3), 300)
    chosen = p.argmax(axis=1)
    expected = {
        "precision": reference.precision_score(y, chosen, average="macro"),
        "recall": reference.recall_score(y, chosen, average="macro"),
        "f1": reference.f1_score(y, chosen, average="macro"),
        "mcc": reference.matthews_corrcoef(y, chosen),
        "roc_auc": reference.roc_auc_score(y, p, multi_class="ovr"),
        "log_loss": reference.log_loss(y, p),
        "brier": np.mean(((p - np.eye(3)[y]) ** 2).sum(axis=1)),
    }
    found = metrics.classification(y, p, threshold=None, scoring=SCORING)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert set(found) == set(metrics.names("multiclass", tuned=False))


def test_one_class_has_no_auc_and_raises_no_warning() -> None:
    p = np.column_stack([np.full(5, 0.2), np.full(5, 0.8)])
    found = metrics.classification(np.zeros(5, dtype=int), p, threshold=0.5, scoring=SCORING)
    assert [math.isnan(found[name]) for name in ("roc_auc", "pr_auc", "recall")] == [True, True, True]
    assert found["accuracy"] == 0.0


def test_calibration_error_is_zero_for_honest_scores_and_their_gap_otherwise() -> None:
    y = np.array([0, 0, 0, 1] * 25)
    honest = np.column_stack([np.full(100, 0.75), np.full(100, 0.25)])
    boastful = honest[:, ::-1]
    error = [
        metrics.classification(y, p, threshold=None, scoring=SCORING)["calibration_error"]
        for p in (honest, boastful)
    ]
    assert error == pytest.approx([0.0, 0.5])


def test_regression_metrics_equal_scikit_learn() -> None:
    draws = np.random.default_rng(0)
    y = draws.normal(10, 3, 100)
    guess = y + draws.normal(size=100)
    assert metrics.regression(y, guess) == pytest.approx(
        {
            "r2": reference.r2_score(y, guess),
            "rmse": reference.root_mean_squared_error(y, guess),
            "mae": reference.mean_absolute_error(y, guess),
            "mape": reference.mean_absolute_percentage_error(y, guess),
            "median_error": reference.median_absolute_error(y, guess),
        }
    )


def test_a_constant_target_has_no_r2_and_a_zero_target_no_mape() -> None:
    found = metrics.regression(np.zeros(4), np.ones(4))
    assert math.isnan(found["r2"])
    assert math.isnan(found["mape"])
    assert found["rmse"] == 1.0


def test_an_overflowing_prediction_is_an_infinite_error_without_a_warning() -> None:
    assert metrics.regression(np.arange(3.0), np.array([0.0, 1.0, np.inf]))["r2"] == -math.inf


@pytest.mark.parametrize(
    ("name", "greater"), [("roc_auc", True), ("brier", False), ("cost_default", False), ("f1_default", True)]
)
def test_direction_of_a_metric(name: str, greater: bool) -> None:
    assert metrics.greater_is_better(name) is greater


def test_the_interval_allows_for_shared_training_rows() -> None:
    values = [0.80, 0.82, 0.84, 0.86, 0.88]
    found = metrics.summarise(values, test_to_train=0.25, confidence=0.95)
    s = np.std(values, ddof=1)
    half = 2.7764451051977987 * s * math.sqrt(1 / 5 + 0.25)  # t(0.975; 4)
    assert (found.mean, found.std) == pytest.approx((0.84, s))
    assert (found.low, found.high) == pytest.approx((0.84 - half, 0.84 + half))


def test_folds_without_a_value_are_left_out_of_the_mean() -> None:
    assert metrics.summarise([0.5, math.nan, 0.7], test_to_train=0.25, confidence=0.9).mean == pytest.approx(
        0.6
    )
    assert math.isnan(metrics.summarise([math.nan], test_to_train=0.25, confidence=0.9).mean)
