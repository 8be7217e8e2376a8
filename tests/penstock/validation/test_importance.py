"""Importance names the columns that matter, in the user's columns."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from penstock.config import Features, Sampler, Scoring, Splitter
from penstock.validation import importance, training
from penstock.validation.fitting import Table

SCORING = Scoring(metric="roc_auc")


def trained(
    table: Table, model: str, recipe: Features | None = None, calibration: str = "none"
) -> training.Trained:
    selection = training.Selection(
        candidate="c",
        model=model,
        params={},
        recipe=recipe or Features(),
        log_target=table.kind == "regression",
        threshold=None if table.kind == "regression" else 0.4,
        metric="roc_auc",
        mean=None,
    )
    return training.train(
        table,
        selection,
        sampler=Sampler(),
        splitter=Splitter(),
        scoring=SCORING,
        calibration=calibration,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    "recipe", [Features(), Features(encode="target"), Features(reduce="pca", components=3)]
)
def test_permutation_ranks_raw_columns(make_table: Callable[..., Table], recipe: Features) -> None:
    table = make_table()
    pipeline = trained(table, "logistic", recipe).pipeline
    frame = importance.permutation(pipeline, table, SCORING, repeats=3, threshold=0.4)
    assert frame["feature"][0] == "a"
    assert sorted(frame["feature"]) == ["a", "b", "c"]
    assert frame["importance"][0] > 0.1
    assert abs(frame.filter(feature="b")["importance"][0]) < 0.02
    assert frame.equals(importance.permutation(pipeline, table, SCORING, repeats=3, threshold=0.4))


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_contributions_sum_the_encoded_columns(make_table: Callable[..., Table], kind: str) -> None:
    table = make_table(kind)
    calibration = "sigmoid" if kind == "binary" else "none"
    frame = importance.contributions(trained(table, "lightgbm", calibration=calibration).pipeline, table)
    assert frame is not None
    assert frame["feature"][0] == "a"
    assert sorted(frame["feature"]) == ["a", "b", "c"]
    assert frame["contribution"].min() >= 0  # type: ignore[operator]


def test_contributions_need_columns_that_are_still_columns(make_table: Callable[..., Table]) -> None:
    table = make_table()
    assert importance.contributions(trained(table, "logistic").pipeline, table) is None
    reduced = trained(table, "lightgbm", Features(reduce="pca", components=2)).pipeline
    assert importance.contributions(reduced, table) is None
    selected = trained(table, "lightgbm", Features(reduce="select", components=2)).pipeline
    frame = importance.contributions(selected, table)
    assert frame is not None
    assert frame.filter(feature="a")["contribution"][0] > 0


def test_a_large_table_is_sampled_once_and_for_all(make_table: Callable[..., Table]) -> None:
    table = make_table(n=5000)
    some = importance.sample(table, repeats=5)
    assert some.frame.height == importance.MOST_ROWS
    assert some.frame.equals(importance.sample(table, repeats=5).frame)
    assert importance.sample(table, repeats=500).frame.height == 200


def test_calibration_moves_the_threshold_with_the_scores(make_table: Callable[..., Table]) -> None:
    table = make_table(strength=1.0)
    plain, mended = (trained(table, "decision_tree", calibration=each) for each in ("none", "sigmoid"))
    assert plain.threshold == 0.4
    assert mended.threshold not in (None, 0.4)
    assert mended.pipeline.named_steps["model"].estimator_.tree_.node_count > 1
