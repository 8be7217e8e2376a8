"""train: from a selection to a pipeline on disk and the columns it leans on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from penstock.errors import PenstockError
from penstock.validation import persistence
from stages import train, validate

Project = Callable[..., Path]


def outputs(folder: Path) -> dict[str, bytes]:
    names = ("models/toy/pipeline.skops", "reports/toy/training.json", "reports/toy/importance.csv")
    return {name: (folder / name).read_bytes() for name in names}


@pytest.mark.parametrize("calibration", ["none", "isotonic"])
def test_the_winner_is_trained_and_explained(project: Project, calibration: str) -> None:
    folder = project(train={"calibration": calibration, "importance_repeats": 2})
    validate.main("toy")
    train.main("toy")
    selection = json.loads((folder / "reports/toy/selection.json").read_text())
    metric = json.loads((folder / "reports/toy/training.json").read_text())
    assert (metric["rows"], metric["features"]) == (200, 3)
    assert metric["roc_auc"] > 0.9
    assert (metric["threshold"] == selection["threshold"]) is (calibration == "none")
    importance = pl.read_csv(folder / "reports/toy/importance.csv")
    assert importance.columns == ["feature", "importance", "std"]
    assert importance["feature"][0] == "a"
    pipeline = persistence.load(folder / "models/toy/pipeline.skops")
    assert [name for name, _ in pipeline.steps] == ["encode", "reduce", "model"]
    frame = pl.read_parquet(folder / "data/features/toy/train.parquet").select("a", "b", "c")
    assert pipeline.predict_proba(frame).shape == (200, 2)


def test_a_boosted_winner_shows_its_contributions_and_repeats_itself(project: Project) -> None:
    boosted = {"model": "lightgbm", "params": {"n_estimators": 20, "min_child_samples": 5}}
    folder = project(candidates={"boosted": boosted})
    validate.main("toy")
    train.main("toy")
    first = outputs(folder)
    assert pl.read_csv(folder / "reports/toy/importance.csv").columns == [
        "feature",
        "importance",
        "std",
        "contribution",
    ]
    train.main("toy")
    assert outputs(folder) == first


def test_without_a_selection_it_says_what_to_run(project: Project) -> None:
    project()
    with pytest.raises(PenstockError, match=r"selection.json: there is no such file"):
        train.main("toy")
