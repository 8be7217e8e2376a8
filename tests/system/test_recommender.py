"""A user's own interactions, from a CSV to an artefact that is asked, in a fresh clone."""

from __future__ import annotations

import json
import sys

import numpy as np

from tests.stages.test_recommend import journeys

ASK = """
import json, sys
from pathlib import Path
from penstock.artifact.recommender_model import load
model = load(Path("models/films"))
keys = model.ids_by_key
found = model.recommend([[keys["f3"], keys["f4"]]], k=2)
print(json.dumps([model.items[item].title for item in found.items[0].tolist()]))
heavy = {"sklearn", "scipy", "onnx", "implicit", "lightgbm", "torch"} & set(sys.modules)
assert not heavy, heavy
"""


def test_a_csv_becomes_a_recommender_by_two_commands(fresh_clone):
    clone = fresh_clone()
    (clone.root / "films.csv").write_text(journeys(40))
    columns = ["--user", "person", "--item", "film", "--time", "seen_at"]
    penstock = (sys.executable, "-m", "penstock.cli")
    clone.run(*penstock, "dataset", "films", "films.csv", *columns)
    settings = clone.root / "conf/dataset/films.yaml"
    # For the test's time: one model, and little resampling.
    small = "candidates: {ease: null, als: null, item_knn: null}\nscoring: {resamples: 100, examples: 2}\n"
    text = settings.read_text().replace("task:\n", "task:\n  title: name\n")
    settings.write_text(f"{text}\n{small}")
    clone.compose("dataset=films")
    clone.run("dvc", "repro", "--glob", "*@films")
    evaluation = json.loads((clone.root / "reports/films/evaluation.json").read_text())
    assert evaluation["transitions"]["hit_rate"] > evaluation["popularity"]["hit_rate"]
    assert "Film" in (clone.root / "reports/films/report.html").read_text()
    assert json.loads(clone.run(sys.executable, "-c", ASK).stdout)[0] == "Film 5"
    refused = clone.run(*penstock, "predict", "models/films", "films.csv", "--out", "x.csv", check=False)
    assert refused.returncode == 2
    assert "recommends items" in refused.stderr
    assert "Traceback" not in refused.stderr
    manifest = json.loads((clone.root / "models/films/manifest.json").read_text())
    assert np.isfinite(list(manifest["metrics"].values())).all()
