"""The model of the graph, run on the stream, says of a window what it says of the same row of its data set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from penstock.artifact.manifest import MANIFEST, MODEL
from penstock.artifact.model import load
from penstock.config import RecordingsSource
from penstock.config.streaming import Activity, Windows
from penstock.signals import names
from penstock.sources.recordings import CHANNELS, recordings
from penstock.stream.activity import Classifier
from penstock.stream.messages import decoded
from penstock.stream.replay import Plan, messages
from penstock.stream.windows import ACTIVITY, Windowing

ROOT = Path(__file__).parents[2]
MODEL_OF = ROOT / "models/watch"
START = 1_795_000_000_000_000_000


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    assert (MODEL_OF / MODEL).is_file(), (
        "models/watch is not here: `make run` makes it, `dvc pull` fetches it"
    )


def test_what_the_stream_says_is_what_the_artefact_says_of_the_same_rows():
    source = RecordingsSource.model_validate(
        yaml.safe_load((ROOT / "conf/source/recordings.yaml").read_text())
    )
    windowing = Windowing(
        Windows(sensors=("totalacceleration", "gyroscope")), Classifier(Activity(model=str(MODEL_OF)))
    )
    sent = messages(recordings(source), Plan(1, 0.0, 120.0, 1.0, 0.1, 0.1, 0.0, 3), 0, START)
    for offset, (_, _, body) in enumerate(sent):
        windowing.take(0, offset, decoded(body), 0.0)
    found = {
        (d.body["sensor"], d.body["start"]): d.body for d in windowing.due({}, everything=True).documents
    }
    starts = sorted(start for sensor, start in found if sensor == ACTIVITY)
    assert len(starts) > 40
    rows = [
        [*found["totalacceleration", s]["features"].values(), *found["gyroscope", s]["features"].values()]
        for s in starts
    ]
    told = load(MODEL_OF).predict(pl.DataFrame(np.array(rows), schema=names(CHANNELS), orient="row"))
    assert [found[ACTIVITY, start]["label"] for start in starts] == told["label"].to_list()
    most = told.select(pl.max_horizontal("^probability_.*$")).to_series().to_list()
    assert [found[ACTIVITY, start]["probability"] for start in starts] == pytest.approx(most, abs=1e-6)
    assert len(set(told["label"])) > 1


def test_a_model_that_comes_later_or_anew_is_used_and_a_broken_one_is_not(tmp_path, capsys):
    folder = tmp_path / "model"
    classifier = Classifier(Activity(model=str(folder)))
    classifier.look()
    features = np.zeros((2, 24))
    assert classifier(features, features) is None
    assert "there is no model yet" in capsys.readouterr().err
    folder.mkdir()
    (folder / MODEL).write_bytes((MODEL_OF / MODEL).read_bytes())
    (folder / MANIFEST).write_bytes((MODEL_OF / MANIFEST).read_bytes())
    classifier.look()
    first = classifier(features, features)
    assert first is not None
    assert len(first) == 2
    (folder / MODEL).write_bytes(b"half of it")
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text() + " ")
    classifier.look()
    assert "does not match its manifest" in capsys.readouterr().err
    assert classifier(features, features) == first  # the one that is loaded goes on
    other = json.loads((MODEL_OF / MANIFEST).read_text())
    other["inputs"] = other["inputs"][1:]
    (folder / MODEL).write_bytes((MODEL_OF / MODEL).read_bytes())
    (folder / MANIFEST).write_text(json.dumps(other))
    classifier.look()
    assert "no model of activities (ax_mean)" in capsys.readouterr().err
