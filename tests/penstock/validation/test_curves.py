"""Curves hold the points that define them, few enough to plot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from penstock.config import Scoring
from penstock.validation import curves
from penstock.validation.metrics import roc_auc

SCORES = np.array([0.9, 0.8, 0.8, 0.3, 0.1])
POSITIVE = np.array([True, True, False, False, True])


def test_roc_joins_ties_and_runs_from_corner_to_corner() -> None:
    assert curves.roc(POSITIVE, SCORES).to_dict(as_series=False) == {
        "fpr": pytest.approx([0, 0, 0.5, 1, 1]),
        "tpr": pytest.approx([0, 1 / 3, 2 / 3, 2 / 3, 1]),
        "threshold": [None, 0.9, 0.8, 0.3, 0.1],
    }


def test_precision_recall_by_hand() -> None:
    assert curves.precision_recall(POSITIVE, SCORES).to_dict(as_series=False) == {
        "recall": pytest.approx([1 / 3, 2 / 3, 2 / 3, 1]),
        "precision": pytest.approx([1, 2 / 3, 1 / 2, 3 / 5]),
        "threshold": [0.9, 0.8, 0.3, 0.1],
    }


def test_gain_by_hand() -> None:
    assert curves.gain(POSITIVE, SCORES).to_dict(as_series=False) == {
        "share": pytest.approx([0, 0.2, 0.6, 0.8, 1]),
        "gain": pytest.approx([0, 1 / 3, 2 / 3, 2 / 3, 1]),
    }


def test_calibration_has_a_line_for_every_filled_bin() -> None:
    assert curves.calibration(POSITIVE, SCORES, bins=2).to_dict(as_series=False) == {
        "predicted": pytest.approx([0.2, 2.5 / 3]),
        "observed": pytest.approx([0.5, 2 / 3]),
        "count": [2, 3],
    }


def test_long_curves_keep_their_ends_and_their_area() -> None:
    draws = np.random.default_rng(0)
    scores = draws.random(20_000)
    positive = draws.random(20_000) < scores
    frame = curves.roc(positive, scores)
    assert frame.height == curves.MOST_POINTS
    assert frame.row(0)[:2] == (0.0, 0.0)
    assert frame.row(-1)[:2] == (1.0, 1.0)
    area = np.trapezoid(frame["tpr"].to_numpy(), frame["fpr"].to_numpy())
    assert area == pytest.approx(roc_auc(positive, scores), abs=1e-4)


def test_residuals_and_predictions_are_sorted() -> None:
    y, guess = np.array([3.0, 1.0, 2.0]), np.array([2.5, 1.5, 2.0])
    assert curves.residuals(y, guess).rows() == [(1.5, -0.5), (2.0, 0.0), (2.5, 0.5)]
    assert curves.predicted_actual(y, guess).rows() == [(1.0, 1.5), (2.0, 2.0), (3.0, 2.5)]


def test_a_missing_class_gives_nulls_and_no_warning() -> None:
    frame = curves.roc(np.zeros(3, dtype=bool), np.array([0.1, 0.2, 0.3]))
    assert frame["tpr"].null_count() == frame.height


def test_every_file_of_a_task_is_written(tmp_path: Path) -> None:
    scoring = Scoring(metric="roc_auc")
    y = np.array([0, 1, 2, 1, 0, 2])
    p = np.random.default_rng(0).dirichlet(np.ones(3), 6)
    curves.write_all(tmp_path / "m", y, p, classes=("a", "b", "c"), threshold=None, scoring=scoring)
    curves.write_all(
        tmp_path / "b", y % 2, p[:, :2], classes=("no", "yes"), threshold=np.full(6, 2.0), scoring=scoring
    )
    curves.write_all(tmp_path / "r", y * 1.0, y * 2.0, classes=None, threshold=None, scoring=scoring)
    names = ["calibration.csv", "confusion.csv", "gain.csv", "precision_recall.csv", "roc.csv"]
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == names
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == names
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == [
        "predicted_actual.csv",
        "residuals.csv",
    ]
    assert pl.read_csv(tmp_path / "m/roc.csv")["class"].unique().sort().to_list() == ["a", "b", "c"]
    # One threshold per row, all out of reach: nothing is called "yes".
    assert pl.read_csv(tmp_path / "b/confusion.csv").rows() == [
        (actual, "no") for actual in ["no", "yes", "no", "yes", "no", "no"]
    ]
