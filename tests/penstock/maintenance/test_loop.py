"""The closed loop: from a world that has changed to a promoted model and a closed incident, by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from urllib.request import urlopen

import polars as pl
import pytest

from penstock.errors import PenstockError
from penstock.maintenance.run import Maintaining, declared
from penstock.monitoring.run import Monitoring
from penstock.monitoring.run import declared as monitor_declared
from tests.penstock.monitoring.answering import ROWS, START, Log, rows, write_repository
from tests.servers.programs import free_port, until

ROOT = Path(__file__).parents[3]
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


def told(root: Path, *arguments: str) -> tuple[int, str]:
    """A command of `penstock maintain` there; its exit code, and what it says."""
    command = [sys.executable, "-m", "penstock.cli", "maintain", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def test_while_a_person_is_at_it_nothing_begins_by_itself(tmp_path, monkeypatch):
    root = repository(tmp_path, "better")
    monkeypatch.chdir(root)
    turned(root)
    before = version(root)
    assert told(root, "status", "toy")[0] == 0
    assert told(root, "open", "toy", "the shop says nothing", "--down", "--who", "ada")[0] == 0
    assert told(root, "open", "toy", "twice")[0] == 2
    assert maintaining(root).run().kind is None
    code, words = told(root, "status", "toy")
    assert code == 1
    assert "the shop says nothing" in words
    assert "not acknowledged" in words
    assert told(root, "ack", "toy", "looking", "--who", "ben")[0] == 0
    assert "not acknowledged" not in told(root, "status", "toy")[1]
    assert told(root, "close", "toy", "it was the network", "--who", "maintenance")[0] == 2
    assert told(root, "close", "toy", "it was the network", "--who", "ada")[0] == 0
    assert told(root, "close", "toy", "again")[0] == 2
    loop = maintaining(root)
    (incident,) = loop.incidents.all()
    assert [(one.what, one.who) for one in incident.entries] == [
        ("opened", "ada"),
        ("acknowledged", "ben"),
        ("closed", "ada"),
    ]
    assert incident.down
    assert version(root) == before
    assert told(root, "incidents", "toy")[0] == 0
    log = loop.incidents.path
    log.write_text(log.read_text().replace("it was the network", "it was the model"))
    code, words = told(root, "incidents", "toy")
    assert code == 1
    assert "incidents.jsonl:3" in words
    assert told(root, "incidents", "tyo")[0] == 2


def test_a_watch_goes_round_and_ends_when_it_is_told(tmp_path):
    root = repository(tmp_path, "better")
    log = Log(root)
    for number in range(2):
        frame = rows(ROWS * 2, number)
        log.hour(number, frame)
        log.truths(number, frame)
    metrics = root / ".penstock/maintenance/toy/metrics.prom"
    port = free_port()
    command = [sys.executable, "-m", "penstock.cli", "maintain", "watch", "toy", "--every", "1"]
    command += ["--metrics", str(port)]
    with subprocess.Popen(command, cwd=root, env=os.environ | {"PYTHONPATH": str(ROOT)}) as process:
        try:
            until(metrics.is_file, "the first round", process)
            first = metrics.stat().st_mtime_ns
            until(lambda: metrics.stat().st_mtime_ns > first, "the next round", process)
            with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                told = answer.read().decode()
            assert "penstock_maintenance_run_timestamp_seconds" in told
            assert "penstock_monitor_window_end_timestamp_seconds" in told
        finally:
            process.terminate()
            assert process.wait(30) == 0
