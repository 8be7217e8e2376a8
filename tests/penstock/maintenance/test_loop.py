"""The closed loop: from a world that has changed to a promoted model and a closed incident, by itself."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from penstock.errors import PenstockError
from penstock.maintenance.run import Maintaining, declared
from penstock.monitoring.run import Monitoring
from penstock.monitoring.run import declared as monitor_declared
from tests.penstock.monitoring.answering import ROWS, START, Log, rows, write_repository

LATER = START + timedelta(days=1)

# What a graph would do in minutes: learn the slope from fresh rows.
RETRAIN = """
import sys
from pathlib import Path
import polars as pl
from tests.penstock.monitoring.answering import write_artefact
fresh = pl.read_parquet("data/fresh/toy.parquet")
relation = fresh.select(pl.corr("age", (pl.col("answer") == "yes").cast(pl.Int64))).item()
better = sys.argv[1] == "better"
write_artefact(Path("models/toy"), (0.08 if relation > 0 else -0.08) if better else 0.001)
"""


def repository(root: Path, learns: str) -> Path:
    write_repository(root)
    (root / "retrain.py").write_text(RETRAIN)
    path = root / "conf/maintenance/toy.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(
        "monitor: toy\n"
        "condition: {causes: [performance]}\n"
        f"retraining: {{command: ['{sys.executable}', retrain.py, {learns}], artefact: models/toy, fresh: data/fresh/toy.parquet, recent: 500d}}\n"
        "comparison: {holdout: data/prepared/toy/holdout.parquet, max_loss: 1.0}\n"
        "promote: [cp, -rT, '{artefact}', models/toy]\n"
    )
    (root / ".gitignore").write_text("/data/\n/.penstock/\n/models/\n")
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "one"],
    ):
        subprocess.run(["git", *command], cwd=root, check=True)
    return root


def turned(root: Path) -> None:
    """Four hours in which the young say what the old used to."""
    log = Log(root)
    for number in range(4):
        frame = rows(ROWS * 2, number)
        log.hour(number, frame)
        other = pl.when(pl.col("answer") == "yes").then(pl.lit("no")).otherwise(pl.lit("yes"))
        log.truths(number, frame.with_columns(other.alias("answer")))
    Monitoring("toy", monitor_declared("toy", root=root), root).run(LATER)


def maintaining(root: Path, now: datetime = LATER) -> Maintaining:
    return Maintaining("toy", declared("toy", root=root), root, clock=lambda: now)


def version(root: Path) -> str:
    return json.loads((root / "models/toy/manifest.json").read_text())["sha256"]


def test_a_world_that_has_changed_gets_a_model_that_knows_it(tmp_path, monkeypatch):
    root = repository(tmp_path, "better")
    monkeypatch.chdir(root)
    turned(root)
    before = version(root)
    loop = maintaining(root)
    action = loop.run()
    assert (action.kind, action.causes) == ("condition", ("performance",))
    (incident,) = loop.incidents.all()
    told = [entry.what for entry in incident.entries]
    assert told == ["opened", "retrained", "compared", "promoted", "closed"]
    assert incident.closed == LATER
    assert version(root) != before
    # The same alert is not acted on once more right away.
    assert maintaining(root, LATER + timedelta(hours=1)).run().kind is None


def test_a_challenger_that_is_worse_does_not_take_over(tmp_path, monkeypatch):
    root = repository(tmp_path, "worse")
    monkeypatch.chdir(root)
    log = Log(root)
    for number in range(2):
        frame = rows(ROWS * 2, number)
        log.hour(number, frame)
        log.truths(number, frame)
    before = version(root)
    # Nothing is wrong; the calendar asks for it.
    later = datetime.now(tz=START.tzinfo) + timedelta(days=40)
    loop = maintaining(root, later)
    assert loop.run().kind == "preventive"
    (incident,) = loop.incidents.all()
    assert [entry.what for entry in incident.entries] == ["opened", "retrained", "compared", "kept", "closed"]
    assert version(root) == before


def test_a_retraining_that_fails_is_written_down_and_the_champion_stays(tmp_path, monkeypatch):
    root = repository(tmp_path, "better")
    monkeypatch.chdir(root)
    turned(root)
    (root / "retrain.py").write_text("raise SystemExit('no space left')")
    subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qam", "two"], cwd=root, check=True
    )
    before = version(root)
    loop = maintaining(root)
    with pytest.raises(PenstockError, match="no space left"):
        loop.run()
    (incident,) = loop.incidents.all()
    assert [entry.what for entry in incident.entries] == ["opened", "failed", "closed"]
    assert version(root) == before


def test_what_was_interrupted_is_closed_by_the_next_run(tmp_path, monkeypatch):
    root = repository(tmp_path, "better")
    monkeypatch.chdir(root)
    loop = maintaining(root, datetime.now(tz=START.tzinfo))
    from penstock.maintenance.decisions import Action

    loop._write("1-condition", Action("condition", ("performance",)), "opened", "x")
    loop.run()
    (incident,) = loop.incidents.all()
    assert incident.outcome == "failed"
    assert incident.closed is not None
