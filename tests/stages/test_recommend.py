"""The stages of interactions, one after the other, on a small table of a user's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import polars as pl
import pytest
import yaml

from penstock.artifact.recommender_model import load
from penstock.errors import PenstockError
from stages import (
    ingest,
    recommend_evaluate,
    recommend_export,
    recommend_report,
    recommend_split,
    recommend_train,
    recommend_validate,
)

Project = Callable[..., Path]
STAGES = (
    ingest,
    recommend_split,
    recommend_validate,
    recommend_train,
    recommend_export,
    recommend_evaluate,
    recommend_report,
)
WORDS = dict.fromkeys(("title", "description", "source", "licence", "intended_use", "caveats"), "toy")
FILMS = 24


def journeys(users: int = 60) -> str:
    """Users who go from film to film around a circle, mostly one step at a time, from anywhere."""
    draws = np.random.default_rng(0)
    lines = ["person,film,seen_at,name,kinds"]
    for user in range(users):
        film, moment = int(draws.integers(FILMS)), datetime(2024, 1, 1, tzinfo=UTC)
        for _ in range(int(draws.integers(6, 12))):
            kind = "A|B" if film % 2 else "C"
            lines.append(f"p{user},f{film},{moment.isoformat()},Film {film},{kind}")
            moment += timedelta(hours=int(draws.integers(1, 50)))
            film = (film + (1 if draws.random() < 0.9 else int(draws.integers(FILMS)))) % FILMS
    return "\n".join(lines) + "\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Make a project with one table of interactions, and go into its folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PENSTOCK_CORES", "1")

    def make(text: str | None = None, **changes: Any) -> Path:
        dataset = {
            "card": WORDS,
            "task": {
                "kind": "interactions",
                "user": "person",
                "item": "film",
                "time": "seen_at",
                "title": "name",
                "genres": "kinds",
            },
            "source": {"kind": "file", "path": "films.csv", "watch": "films.csv"},
            "contract": {"max_quarantine_share": 0.1},
            "prepare": {},
            "catalogue": {},
            "candidates": {
                "popularity": {"kind": "popularity"},
                "ease": {"kind": "ease", "ridge": [10], "half_lives": [None]},
                "transitions": {"kind": "transitions", "ridge": [1, 10], "past": [2], "future": [0.5]},
                "als": {
                    "kind": "als",
                    "factors": [4],
                    "regularisation": [0.1],
                    "alpha": [5],
                    "iterations": 3,
                },
            },
            "train": {"neighbours": 10, "factors": 4},
            "scoring": {"k": 3, "depth": 10, "resamples": 200, "diversities": [0.0, 1.0], "examples": 2},
            "export": {"pool": 12},
        } | changes
        params = {
            "seed": 1,
            "names": [],
            "pictures": [],
            "interactions": ["films"],
            "datasets": {"films": dataset},
        }
        Path("params.yaml").write_text(yaml.safe_dump(params))
        Path("films.csv").write_text(text or journeys())
        return tmp_path

    return make


def run_all() -> None:
    for stage in STAGES:
        stage.main("films")


def outputs(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for top in ("data", "models", "reports")
        for path in sorted((folder / top).rglob("*"))
        if path.is_file()
    }


def test_from_a_csv_to_a_recommender_that_knows_what_comes_next(project, monkeypatch):
    folder = project(journeys().replace("p0,f", ",f", 1) + "p1,f1,never,x,y\n")
    run_all()
    ingested = json.loads((folder / "reports/films/ingest.json").read_text())
    assert (ingested["quarantined"], ingested["users"], ingested["items"]) == (2, 60, FILMS)
    evaluation = json.loads((folder / "reports/films/evaluation.json").read_text())
    selection = json.loads((folder / "reports/films/selection.json").read_text())
    assert selection["winner"] == "transitions"
    # Nine of ten go one film on; the popular films are known to nobody's advantage.
    assert evaluation["transitions"]["hit_rate"] > 0.6 > 2 * evaluation["popularity"]["hit_rate"]
    tests = pl.read_csv(folder / "reports/films/evaluation/tests.csv")
    assert tests.filter(other="popularity", metric="hit_rate")["p"].item() < 0.05
    parity = json.loads((folder / "reports/films/parity.json").read_text())
    assert parity["max_difference"] < 1e-5
    model = load(folder / "models/films")
    keys = model.ids_by_key
    asked = model.recommend([[keys["f3"], keys["f4"], keys["f5"]]], k=3)
    assert asked.items[0, 0] == keys["f6"]
    assert asked.because[0, 0] == keys["f5"]
    item = model.items[int(asked.items[0, 0])]
    assert (item.key, item.title, item.genres) == ("f6", "Film 6", ("C",))
    page = (folder / "reports/films/report.html").read_text()
    assert "Film " in page
    assert "Transitions" in page
    # The same again, to the byte.
    before = outputs(folder)
    run_all()
    assert outputs(folder) == before


def test_the_file_is_all_that_plain_onnxruntime_needs(project):
    folder = project()
    for stage in STAGES[:5]:
        stage.main("films")
    session = ort.InferenceSession(folder / "models/films/model.onnx", providers=["CPUExecutionProvider"])
    items, scores, because = session.run(
        None,
        {
            "items": np.array([[-1]], np.int64),
            "exclude": np.empty((1, 0), np.int64),
            "k": np.array(4, np.int64),
            "diversity": np.array(0, np.float32),
        },
    )
    known = json.loads((folder / "models/films/items.json").read_text())
    assert items[0].tolist() == known["id"][:4]
    assert (np.diff(scores[0]) <= 0).all()
    assert (because == -1).all()


def test_a_split_by_one_moment_goes_all_the_way_too(project):
    folder = project(prepare={"split": "time", "holdout": 0.2, "validation": 0.2})
    run_all()
    evaluation = json.loads((folder / "reports/films/evaluation.json").read_text())
    assert 0 < evaluation["transitions"]["recall"] < evaluation["transitions"]["hit_rate"] < 1


def test_too_many_bad_rows_fail_the_stage_and_lie_in_quarantine(project):
    folder = project(
        "\n".join(f"p{n},f{n},{'2024-01-01' if n % 3 else ''},x,y" for n in range(-1, 30)).replace(
            "p-1,f-1,2024-01-01,x,y", "person,film,seen_at,name,kinds"
        )
    )
    with pytest.raises(PenstockError, match="seen_at"):
        ingest.main("films")
    assert pl.read_parquet(folder / "data/quarantine/films.parquet").height == 10


def test_a_file_that_does_not_answer_as_the_arrays_is_not_put_in_place(project, monkeypatch):
    folder = project()
    for stage in STAGES[:4]:
        stage.main("films")
    written = recommend_export.to_onnx

    def another(model: Any, name: str) -> bytes:
        """Stands in for a converter with a defect."""
        from dataclasses import replace

        return written(replace(model, weights=model.weights[::-1].copy()), name)

    monkeypatch.setattr(recommend_export, "to_onnx", another)
    with pytest.raises(PenstockError, match="does not answer as the model: max_difference"):
        recommend_export.main("films")
    assert not (folder / "models/films/model.onnx").exists()


def test_stages_of_other_kinds_are_not_for_interactions(project):
    from stages import features, prepare

    project()
    with pytest.raises(PenstockError, match="films is a set of interactions, and has no 'derive'"):
        features.main("films")
    with pytest.raises(PenstockError, match="films is a set of interactions, and its 'task' is not"):
        prepare.main("films")
