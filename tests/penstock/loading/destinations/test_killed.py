"""Killed at any moment, a table is the old one or the new one, and its state is that of its rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from tests.penstock.loading.destinations.conftest import shown
from tests.penstock.loading.destinations.ending import act, mortal, opened

MODES = {
    "append": ("append", (), None),
    "append new": ("append", ("id",), None),
    "replace": ("replace", (), None),
    "merge": ("merge", ("id",), "at"),
    "scd2": ("scd2", ("id",), "at"),
}
PARQUET = {"kind": "parquet", "file_rows": 4}
KINDS = {
    "parquet": PARQUET,
    "parquet in parts": {**PARQUET, "partition_by": ["part"]},
    "delta": {"kind": "delta"},
}
CASES = [(kind, mode) for mode in MODES for kind in ("parquet", "delta")] + [("parquet in parts", "merge")]


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    with mortal(tmp_path_factory.mktemp("ending")) as at:
        yield at


def told(destination):
    """The table's rows, which are those that a reader finds who knows nothing of loads, and its state."""
    with opened(destination) as table:
        found = shown(table.scan().collect().to_dicts())
        state = table.state
    if destination["kind"] == "parquet":
        folder = Path(destination["path"])
        by_glob = pl.read_parquet(f"{folder}/**/*.parquet", hive_partitioning=False)
        assert shown(by_glob.to_dicts()) == found
        assert [path.name for path in folder.rglob("_penstock/*")] == ["table.json"]
    return found, state.load, state.resume


def every_moment(process, tmp_path, kind, before, what, load):
    """Folders in which a process was killed before each change that it would have made."""
    for number in range(1, 10_000):
        folder = tmp_path / f"at{number}"
        if before is not None:
            shutil.copytree(before, folder)
        destination = {**KINDS[kind], "path": str(folder)}
        if not process.killed(destination, what, load, number):
            assert number > 5
            return
        yield destination
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize(("kind", "mode"), CASES)
def test_a_load_killed_before_any_change_is_over_or_never_was(process, tmp_path, kind, mode):
    what = json.dumps(MODES[mode])
    tables = {}
    for name, loads in (("old", [1]), ("whole", [1, 2])):
        destination = {**KINDS[kind], "path": str(tmp_path / name)}
        for load in loads:
            with opened(destination) as table:
                act(table, what, load)
        tables[len(loads)] = told(destination)
    assert tables[1][0] != tables[2][0]
    seen = []
    for destination in every_moment(process, tmp_path, kind, tmp_path / "old", what, 2):
        found = told(destination)
        assert found == tables[found[1]]
        seen.append(found[1])
        if found[1] == 1 and len(seen) % 5 == 0:
            # What is started again ends as if it had never been killed.
            with opened(destination) as table:
                act(table, what, 2)
            assert told(destination) == tables[2]
    assert seen == sorted(seen)
    assert set(seen) == {1, 2}


@pytest.mark.parametrize("kind", ["parquet", "delta"])
def test_so_is_the_first_load(process, tmp_path, kind):
    what = json.dumps(["merge", ["id"], "at"])
    destination = {**KINDS[kind], "path": str(tmp_path / "whole")}
    with opened(destination) as table:
        act(table, what, 1)
    whole = told(destination)
    seen = []
    for destination in every_moment(process, tmp_path, kind, None, what, 1):
        with opened(destination) as table:
            load = table.state.load
            if load == 0:
                assert table.scan().collect().is_empty()
                act(table, what, 1)
        assert told(destination) == whole
        seen.append(load)
    assert seen == sorted(seen)
    assert set(seen) == {0, 1}


@pytest.mark.parametrize("kind", ["parquet", "delta"])
def test_a_compaction_changes_no_row_wherever_it_is_killed(process, tmp_path, kind):
    destination = {**KINDS[kind], "path": str(tmp_path / "old")}
    for load in (1, 2):
        with opened(destination) as table:
            act(table, json.dumps(["append", [], None]), load)
    old = told(destination)
    for killed in every_moment(process, tmp_path, kind, tmp_path / "old", "compact", 0):
        assert told(killed) == old
        with opened(killed) as table:
            table.compact()
        assert told(killed) == old


def test_what_finishes_a_killed_load_may_be_killed_too(process, tmp_path):
    kind = "parquet in parts"
    what = json.dumps(["scd2", ["id"], "at"])
    destination = {**KINDS[kind], "path": str(tmp_path / "old")}
    with opened(destination) as table:
        act(table, what, 1)
    # The first moment at which the load is decided, and all of its renaming is still to be done.
    for killed in every_moment(process, tmp_path / "first", kind, tmp_path / "old", what, 2):
        if json.loads(Path(killed["path"], "_penstock/table.json").read_text())["pending"]:
            decided = tmp_path / "decided"
            shutil.copytree(killed["path"], decided)
            break
    whole = None
    for killed in every_moment(process, tmp_path, kind, decided, "open", 0):
        found = told(killed)
        assert found[1] == 2
        assert whole in (None, found)
        whole = found
