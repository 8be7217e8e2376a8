"""The tuned threshold is the best there is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config import Costs, Scoring
from penstock.validation.metrics import classification
from penstock.validation.thresholds import tune


def value(y: np.ndarray, p: np.ndarray, threshold: float, scoring: Scoring) -> float:
    found = classification(y, np.column_stack([1 - p, p]), threshold=threshold, scoring=scoring)
    return found["f1"] if scoring.threshold == "f1" else -found["cost"]


@given(
    seed=st.integers(0, 10_000),
    goal=st.sampled_from(["f1", "cost"]),
    costs=st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)),
)
def test_no_other_threshold_does_better(seed: int, goal: str, costs: tuple[float, float]) -> None:
    scoring = Scoring(
        metric="f1",
        threshold=goal,
        costs=Costs(false_positive=costs[0], false_negative=costs[1]),  # type: ignore[arg-type]
    )
    draws = np.random.default_rng(seed)
    y = np.append([0, 1], draws.integers(0, 2, 30))
    p = (0.8 * draws.random(32) + 0.15 * y).round(2)
    found = tune(y, p, scoring)
    assert found is not None
    assert (
        value(y, p, found, scoring)
        >= max(value(y, p, cut, scoring) for cut in np.arange(-0.005, 1.02, 0.01)) - 1e-12
    )


def test_the_threshold_lies_between_scores_and_has_six_digits() -> None:
    scoring = Scoring(metric="f1", threshold="f1")
    assert tune(np.array([0, 0, 1, 1]), np.array([0.1, 1 / 3, 2 / 3, 0.9]), scoring) == 0.5
    assert tune(np.array([0, 1]), np.array([0.0, 1 / 3]), scoring) == 0.166667


def test_costs_may_call_for_flagging_none_or_all() -> None:
    y, p = np.array([0, 1, 0, 1]), np.array([0.2, 0.4, 0.6, 0.8])
    dear = Scoring(metric="f1", threshold="cost", costs=Costs(false_positive=100, false_negative=1))
    cheap = Scoring(metric="f1", threshold="cost", costs=Costs(false_positive=0.01, false_negative=1))
    assert tune(y, p, dear) == pytest.approx(0.7)
    assert tune(y, p, cheap) == pytest.approx(0.3)


def test_nothing_to_tune_is_none() -> None:
    assert tune(np.array([0, 1]), np.array([0.1, 0.9]), Scoring(metric="f1", threshold="default")) is None
    assert tune(np.array([1, 1]), np.array([0.1, 0.9]), Scoring(metric="f1", threshold="f1")) is None
