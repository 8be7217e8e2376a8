"""State is saved while it is written, comes back as it was, and nothing that is damaged or strange comes back at all."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from penstock.config.rollout import Rollout
from penstock.errors import PenstockError
from penstock.maintenance.backups import MANIFEST, backup, restore
from penstock.rollout.audit import Intent, broken
from penstock.rollout.desk import Desk
from penstock.rollout.state import open_store

NOW = datetime(2026, 5, 1, tzinfo=UTC)
KEEP = timedelta(days=30)

# Moves money between two rows for as long as it lives: their sum never changes, but for someone who sees half of it.
WRITER = """
import sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute("PRAGMA journal_mode = WAL")
c.execute("PRAGMA synchronous = OFF")
c.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, n INTEGER, filling TEXT)")
c.executemany("INSERT INTO t VALUES (?, 500, ?)", [(at, "x" * 900) for at in range(400)])
print("at it", flush=True)
while True:
    for at in range(0, 400, 2):
        c.execute("BEGIN IMMEDIATE")
        c.execute("UPDATE t SET n = n - 1 WHERE id = ?", (at,))
        c.execute("UPDATE t SET n = n + 1 WHERE id = ?", (399 - at,))
        c.execute("COMMIT")
"""


def total(path: Path) -> tuple[int, int]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT count(*), sum(n) FROM t").fetchone()


def rollout(root: Path):
    view = Rollout.model_validate(
        {
            "model": "toy",
            "salt": "salt",
            "arms": {"a": {"urls": ["http://127.0.0.1:1"]}, "b": {"urls": ["http://127.0.0.1:2"]}},
            "strategy": {"kind": "single", "champion": "a"},
            "state": {"kind": "sqlite", "path": str(root / "data/rollout/toy.sqlite")},
        }
    )
    return view, open_store(view)


@pytest.fixture
def root(tmp_path) -> Path:
    """A repository with state of every kind."""
    root = tmp_path / "repository"
    view, store = rollout(root)
    desk = Desk(view, store)
    desk.begin()
    store.note(Intent("ada", "flag route", "why not"), 1, 2)
    store.close()
    for name, text in {
        ".penstock/maintenance/toy/incidents.jsonl": '{"a": 1}\n{"half',
        ".penstock/maintenance/toy/lock": "",
        ".penstock/champions/toy/manifest.json": "{}",
        ".penstock/forgotten.jsonl": '{"at": "2026-04-01T00:00:00+00:00"}\n',
        "conf/flags/toy.json": "{}",
        "conf/operators.yaml": "ada: [hash]\n",
        "conf/secrets.yaml": "password: clear\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "conf/operators.yaml").chmod(0o600)
    return root


def test_what_is_saved_while_it_is_written_comes_back_whole(root, tmp_path):
    busy = root / "data/recommender/state.sqlite"
    busy.parent.mkdir(parents=True)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(busy)], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "at it\n"
        for number in range(3):
            backup(root, tmp_path / f"saved{number}", NOW, KEEP)
        assert writer.poll() is None
    finally:
        writer.kill()
        writer.communicate()
    fresh = tmp_path / "fresh"
    restore(fresh, tmp_path / "saved2")
    for number in range(3):
        rows, money = total(tmp_path / f"saved{number}/data/recommender/state.sqlite")
        assert (rows, money) == (400, 200_000)
    assert total(fresh / "data/recommender/state.sqlite") == (400, 200_000)
    _, before = rollout(root)
    _, after = rollout(fresh)
    assert after.settings() == before.settings()
    assert [one.dump() for one in after.history()] == [one.dump() for one in before.history()]
    assert broken(after.history()) is None
    before.close()
    after.close()
    assert (fresh / ".penstock/maintenance/toy/incidents.jsonl").read_text() == '{"a": 1}\n'
    assert (fresh / "conf/operators.yaml").stat().st_mode & 0o777 == 0o600
    assert not (fresh / "conf/secrets.yaml").exists()
    assert not (fresh / ".penstock/maintenance/toy/lock").exists()
    assert (tmp_path / "saved2").stat().st_mode & 0o077 == 0


def test_nothing_is_replaced_unless_told_to(root, tmp_path):
    backup(root, tmp_path / "saved", NOW, KEEP)
    _view, store = rollout(root)
    settings = store.settings()
    store.change(
        settings, settings.model_copy(update={"version": 2, "is_paused": True}), Intent("x", "pause", "")
    )
    store.close()
    with pytest.raises(PenstockError, match=r"toy\.sqlite is there and differs"):
        restore(root, tmp_path / "saved")
    assert rolled(root) == 2
    restore(root, tmp_path / "saved", force=True)
    restore(root, tmp_path / "saved")  # what is the same stands in nobody's way
    assert rolled(root) == 1


def rolled(root: Path) -> int:
    _, store = rollout(root)
    version = store.settings().version
    store.close()
    return version


@pytest.mark.parametrize("damage", ["changed", "missing", "outside", "no manifest"])
def test_a_backup_that_is_not_what_it_says_changes_nothing(root, tmp_path, damage):
    saved = tmp_path / "saved"
    backup(root, saved, NOW, KEEP)
    if damage == "changed":
        path = saved / "conf/flags/toy.json"
        path.write_text("[]")
    elif damage == "missing":
        (saved / "conf/operators.yaml").unlink()
    elif damage == "outside":
        told = json.loads((saved / MANIFEST).read_text())
        told["files"][0]["path"] = "conf/../../evil"
        (saved / MANIFEST).write_text(json.dumps(told))
    else:
        (saved / MANIFEST).unlink()
    fresh = tmp_path / "fresh"
    with pytest.raises(PenstockError):
        restore(fresh, saved)
    assert not fresh.exists()


def test_whoever_was_forgotten_since_is_to_be_forgotten_again(root, tmp_path):
    backup(root, tmp_path / "saved", NOW, KEEP)
    with (root / ".penstock/forgotten.jsonl").open("a") as file:
        file.write('{"at": "2026-05-02T00:00:00+00:00"}\n')
    _, since = restore(root, tmp_path / "saved", force=True)
    assert since == ["2026-05-02T00:00:00+00:00"]
    ledger = json.loads((root / ".penstock/backups.jsonl").read_text())
    assert ledger["until"] == "2026-05-31"
    with pytest.raises(PenstockError, match="is there"):
        backup(root, tmp_path / "saved", NOW, KEEP)
