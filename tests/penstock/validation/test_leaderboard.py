"""Nested validation from end to end: order, bookkeeping, and no leak."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from penstock.config import Candidate, Features, Grid, Sampler, Scoring, Search, Splitter
from penstock.errors import PenstockError
from penstock.storage import rounded
from penstock.validation import leaderboard
from penstock.validation.fitting import Table
from penstock.validation.judging import Plan
from penstock.validation.metrics import classification, names
from penstock.validation.parallel import workers

MakeTable = Callable[..., Table]
CANDIDATES = {
    "dummy": Candidate(model="dummy"),
    "logistic": Candidate(model="logistic", space={"C": Grid(kind="choice", values=(0.01, 1.0))}),
    "tree": Candidate(model="decision_tree", params={"max_depth": 2}, features={"scale": "none"}),
}


def board(table: Table, cores: int = 1, **changes: Any) -> leaderboard.Leaderboard:
    plan = Plan(
        changes.pop("splitter", Splitter(n_splits=4)),
        changes.pop("search", Search(name="grid")),
        changes.pop("scoring", Scoring(metric="roc_auc")),
    )
    chosen = {
        "features": Features(),
        "sampler": Sampler(),
        "compare_samplers": (),
        "advance": lambda _: None,
        **changes,
    }
    candidates = chosen.pop("candidates", CANDIDATES)
    with workers(cores, []) as spread:
        return leaderboard.build(table, plan, candidates, spread=spread, **chosen)


def test_candidates_are_ranked_and_the_winner_is_settled(make_table: MakeTable) -> None:
    table = make_table()
    found = board(table)
    assert [entry.name for entry in found.entries] == ["logistic", "tree", "dummy"]
    assert found.selection() == {
        "candidate": "logistic",
        "model": "logistic",
        "params": found.setting,
        "recipe": Features().model_dump(),
        "log_target": False,
        "threshold": found.threshold,
        "metric": "roc_auc",
        "mean": rounded(found.winner.summaries["roc_auc"].mean),
    }
    assert found.setting["C"] in (0.01, 1.0)
    assert found.comparison is not None
    assert (found.comparison.best, found.comparison.second) == ("logistic", "tree")
    assert set(found.winner.summaries) == set(names("binary", tuned=True))
    assert found.entries[-1].summaries["roc_auc"].mean == 0.5


def test_out_of_fold_predictions_are_those_that_were_judged(make_table: MakeTable) -> None:
    table = make_table()
    found = board(table)
    seen = found.out_of_fold
    assert sorted(np.concatenate([fold.rows for fold in found.winner.folds]).tolist()) == list(range(240))
    size = len(found.winner.folds[0].rows)
    assert seen.threshold is not None
    again = classification(
        seen.y[:size],
        seen.prediction[:size],
        threshold=float(seen.threshold[0]),
        scoring=Scoring(metric="roc_auc"),
    )
    assert again == found.winner.folds[0].metrics


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_the_number_of_cores_changes_nothing(make_table: MakeTable, kind: str) -> None:
    table = make_table(kind)
    regression = kind == "regression"
    changes: dict[str, Any] = {
        "candidates": {
            "lightgbm": Candidate(
                model="lightgbm",
                params={"min_child_samples": 5, "subsample": 0.7, "subsample_freq": 1},
                space={"n_estimators": Grid(kind="choice", values=(5, 10))},
                log_target=regression,
            ),
            "knn": Candidate(model="knn"),
        },
        "scoring": Scoring(metric="r2" if regression else "roc_auc"),
    }
    one, two = (
        json.dumps([each.dump(), each.selection(), each.validation()])
        for each in (board(table, cores, **changes) for cores in (1, 2))
    )
    assert one == two


def test_an_error_metric_ranks_the_smallest_first(make_table: MakeTable) -> None:
    candidates = {"dummy": Candidate(model="dummy"), "linear": Candidate(model="linear")}
    found = board(make_table("regression"), candidates=candidates, scoring=Scoring(metric="rmse"))
    assert [entry.name for entry in found.entries] == ["linear", "dummy"]
    assert found.table(found.entries).columns == [
        "candidate",
        "rmse",
        "std",
        "low",
        "high",
        "r2",
        "mae",
        "mape",
        "median_error",
    ]


def test_samplers_are_judged_on_the_same_folds(make_table: MakeTable) -> None:
    wanted = (Sampler(name="none"), Sampler(name="random_over"), Sampler(name="random_over", ratio=0.9))
    found = board(make_table(strength=1.0), compare_samplers=wanted)
    entries = {entry.name: entry for entry in found.samplers}
    assert set(entries) == {"none", "random_over_1", "random_over_0.9"}
    # "none" is what the main loop did, too: same folds, same parameters, same result.
    assert [fold.metrics for fold in entries["none"].folds] == [fold.metrics for fold in found.winner.folds]
    assert (
        entries["random_over_1"].summaries["recall_default"].mean
        > entries["none"].summaries["recall_default"].mean
    )
    columns = found.table(found.samplers).columns
    assert {"recall", "precision", "f1", "pr_auc", "roc_auc", "mcc", "brier", "cost"} <= set(columns)


@pytest.mark.parametrize("name", ["none", "random", "optuna"])
def test_other_searches_and_metrics_of_decisions_run(make_table: MakeTable, name: Any) -> None:
    candidates = dict(CANDIDATES) if name != "none" else {"tree": CANDIDATES["tree"]}
    found = board(
        make_table(),
        candidates=candidates,
        search=Search(name=name, trials=2),
        scoring=Scoring(metric="f1", threshold="cost"),
        splitter=Splitter(n_splits=3, n_repeats=2),
    )
    assert len(found.winner.folds) == 6
    assert found.comparison is None or found.comparison.p <= 1
    assert found.validation()["winner"] == found.winner.name


def test_progress_is_told_of_every_task(make_table: MakeTable) -> None:
    told: list[float] = []
    samplers = (Sampler(), Sampler(name="random_under"))
    board(make_table(), compare_samplers=samplers, advance=told.append)
    plan = Plan(Splitter(n_splits=4), Search(), Scoring(metric="roc_auc"))
    assert len(told) == leaderboard.count_tasks(plan, CANDIDATES, Features(), len(samplers))


def test_an_unknown_parameter_is_the_users_mistake(make_table: MakeTable) -> None:
    with pytest.raises(PenstockError, match="did you mean 'max_depth'"):
        board(make_table(), candidates={"tree": Candidate(model="decision_tree", params={"max_dept": 2})})


def test_fewer_rows_than_folds_is_the_users_mistake(make_table: MakeTable) -> None:
    with pytest.raises(PenstockError, match="n_splits is 50"):
        board(make_table(n=40), splitter=Splitter(name="kfold", n_splits=50))
