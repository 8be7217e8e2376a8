"""validate: from a feature table and params.yaml to a selection, a leaderboard and curves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from penstock.errors import PenstockError
from stages import validate

Project = Callable[..., Path]


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_outputs_of_a_binary_task(project: Project) -> None:
    folder = project(compare_samplers=[{"name": "none"}, {"name": "smote_nc"}])
    validate.main("toy")
    reports = folder / "reports/toy"
    assert sorted(tree(reports)) == [
        "selection.json",
        "validation.json",
        "validation/calibration.csv",
        "validation/confusion.csv",
        "validation/gain.csv",
        "validation/leaderboard.csv",
        "validation/leaderboard.json",
        "validation/precision_recall.csv",
        "validation/roc.csv",
        "validation/samplers.csv",
    ]
    selection = json.loads((reports / "selection.json").read_text())
    metrics = json.loads((reports / "validation.json").read_text())
    board = pl.read_csv(reports / "validation/leaderboard.csv")
    assert selection["candidate"] == metrics["winner"] == board["candidate"][0] == "logistic"
    assert selection["params"]["C"] in (0.1, 1.0)
    assert selection["threshold"] == metrics["threshold"]
    assert metrics["roc_auc"] == board["roc_auc"][0] > 0.9
    assert metrics["roc_auc_low"] < metrics["roc_auc"] < metrics["roc_auc_high"]
    assert board.columns[:5] == ["candidate", "roc_auc", "std", "low", "high"]
    assert pl.read_csv(reports / "validation/confusion.csv").height == 200
    assert set(pl.read_csv(reports / "validation/samplers.csv")["candidate"]) == {"none", "smote_nc"}


def test_a_second_run_writes_the_same_bytes(project: Project) -> None:
    folder = project()
    validate.main("toy")
    first = tree(folder / "reports")
    validate.main("toy")
    assert tree(folder / "reports") == first


def test_outputs_of_a_regression_task(project: Project) -> None:
    folder = project(
        kind="regression",
        candidates={"linear": {"model": "linear"}, "ridge_log": {"model": "ridge", "log_target": True}},
        scoring={"metric": "r2"},
        splitter={"name": "kfold", "n_splits": 4},
    )
    validate.main("toy")
    reports = folder / "reports/toy"
    assert sorted(path.name for path in (reports / "validation").iterdir()) == [
        "leaderboard.csv",
        "leaderboard.json",
        "predicted_actual.csv",
        "residuals.csv",
    ]
    metrics = json.loads((reports / "validation.json").read_text())
    assert sorted(metrics) == [
        "mae",
        "mape",
        "median_error",
        "r2",
        "r2_high",
        "r2_low",
        "r2_std",
        "rmse",
        "winner",
    ]
    assert json.loads((reports / "selection.json").read_text())["threshold"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"splitter": {"name": "kfold", "n_splits": 500}}, "n_splits is 500, but there are only 200 rows"),
        (
            {"candidates": {"t": {"model": "decision_tree", "params": {"max_dept": 1}}}},
            "did you mean 'max_depth'",
        ),
        ({"candidates": {"t": {"model": "svm", "params": {"C": -1.0}}}}, "the model svm cannot be fitted"),
    ],
)
def test_mistakes_are_explained(project: Project, changes: dict[str, Any], message: str) -> None:
    project(**changes)
    with pytest.raises(PenstockError) as caught:
        validate.main("toy")
    assert message in str(caught.value)


def test_features_that_are_not_there_are_named(project: Project) -> None:
    folder = project()
    (folder / "data/features/toy/train.parquet").unlink()
    with pytest.raises(PenstockError, match=r"train.parquet: there is no such file"):
        validate.main("toy")
