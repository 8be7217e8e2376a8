"""Answers beside the truth, whole and by slices."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from penstock.config import Scoring
from penstock.validation import metrics
from penstock.validation.holdout import by_slice, judge

SCORING = Scoring(metric="roc_auc")


def judged(rows: int = 400):
    random = np.random.default_rng(0)
    y = random.integers(0, 2, rows)
    score = np.clip(0.5 + 0.2 * (2 * y - 1) + random.normal(0, 0.3, rows), 0.01, 0.99)
    truth = pl.Series("left", np.where(y == 1, "yes", "no"))
    probabilities = np.column_stack([1 - score, score])
    frame = pl.DataFrame(
        {
            "plan": random.choice(["a", "b", None], rows),
            "age": random.normal(40, 10, rows),
            "kids": random.integers(0, 3, rows),
            "town": ["rare", *["big"] * (rows - 1)],
        }
    )
    return (
        frame,
        y,
        probabilities,
        judge(truth, probabilities, classes=("no", "yes"), threshold=0.4, scoring=SCORING),
    )


def test_the_whole_is_what_the_metrics_say():
    _, y, probabilities, result = judged()
    assert result.metrics == metrics.classification(y, probabilities, threshold=0.4, scoring=SCORING)


def test_a_slice_is_judged_by_its_own_rows():
    frame, y, probabilities, result = judged()
    table = by_slice(frame, ["plan"], result)
    at = (frame["plan"] == "b").fill_null(value=False).to_numpy()
    wanted = metrics.classification(y[at], probabilities[at], threshold=0.4, scoring=SCORING)
    row = table.filter(column="plan", value="b").row(0, named=True)
    assert row["count"] == at.sum()
    assert {name: row[name] for name in wanted} == pytest.approx(wanted, nan_ok=True)


@pytest.mark.parametrize("column", ["plan", "age", "kids"])
def test_the_slices_of_a_column_are_the_whole(column):
    frame, *_, result = judged()
    table = by_slice(frame, [column], result)
    assert table.row(0)[:3] == ("", "all", 400)
    assert table.filter(column=column)["count"].sum() == 400


def test_numbers_of_many_values_are_sliced_by_quartile_from_the_lowest():
    frame, *_, result = judged()
    slices = by_slice(frame, ["age"], result).filter(column="age")
    assert slices["count"].to_list() == [100] * 4
    assert slices["value"][0].startswith("(-inf")
    assert slices["value"][3].endswith("inf]")


def test_a_slice_of_few_rows_is_counted_and_not_judged():
    frame, *_, result = judged()
    row = by_slice(frame, ["town"], result).filter(value="rare").row(0, named=True)
    assert row["count"] == 1
    assert row["roc_auc"] is None


def test_values_are_judged_in_their_unit():
    truth = pl.Series([1.0, 2.0, 4.0])
    result = judge(
        truth, np.array([1.0, 2.0, 3.0]), classes=None, threshold=None, scoring=Scoring(metric="rmse")
    )
    assert result.metrics["mae"] == pytest.approx(1 / 3)
