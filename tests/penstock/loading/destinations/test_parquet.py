"""A folder of Parquet files: ended anywhere, it is the old table or the new one; any reader reads it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import duckdb
import polars as pl
import pytest

from penstock.config.loading import ParquetDestination
from penstock.errors import PenstockError
from penstock.loading.destinations.parquet import ParquetTable
from tests.penstock.loading.destinations.conftest import MOMENT, plan_of, rows_of, shown, state_of

FIRST = [(number, "ab"[number % 2], float(number), 0) for number in range(10)]
SECOND = [(number, "ab"[number % 2], number + 0.5, 1) for number in range(5, 15)]
MODES = [
    ("append", (), None),
    ("append", ("id",), None),
    ("replace", (), None),
    ("merge", ("id",), "at"),
    ("scd2", ("id",), "at"),
]


def destination(folder, **others):
    return ParquetDestination(kind="parquet", path=str(folder), file_rows=4, **others)


def load(table, rows, number, mode):
    table.stage(rows_of(rows[:3], number))
    table.stage(rows_of(rows[3:], number))
    return table.commit(state_of(number), plan_of(*mode, MOMENT + timedelta(days=number)))


def by_glob(folder):
    return shown(pl.read_parquet(f"{folder}/**/*.parquet", hive_partitioning=False).to_dicts())


CHILD = """
import sys
from tests.penstock.loading.destinations.test_parquet import SECOND, destination, load
from penstock.loading.destinations.parquet import ParquetTable
print("ready", flush=True)
with ParquetTable(destination(sys.argv[1])) as table:
    for number in range(table.state.load + 1, 200):
        load(table, [(key + number, part, value, day) for key, part, value, day in SECOND], number, ("merge", ("id",), None))
        print(number, flush=True)
"""


def test_a_killed_process_leaves_what_it_said_it_had_stored(tmp_path):
    folder = tmp_path / "orders"
    for commits in (1, 2, 3, 5, 8):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])},
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        said = 0
        for _ in range(commits):
            said = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        # It may have said more before the signal came.
        rest = child.stdout.read().split()
        said = max([said, *map(int, rest)])
        child.wait()
        child.stdout.close()
        with ParquetTable(destination(folder)) as table:
            rows = table.scan().collect()
            assert table.state.load in {said, said + 1}
            assert rows["id"].is_unique().all()
            assert rows.height == 9 + table.state.load  # each load brings one new key
            assert by_glob(folder) == shown(rows.to_dicts())


def test_a_folder_with_files_of_others_is_left_alone(tmp_path):
    pl.DataFrame({"x": [1]}).write_parquet(tmp_path / "mine.parquet")
    with pytest.raises(PenstockError, match=r"mine\.parquet, which no load wrote"):
        ParquetTable(destination(tmp_path))
    assert (tmp_path / "mine.parquet").exists()


def test_a_new_column_and_a_wider_type_reach_all_files(tmp_path):
    mode = ("append", (), None)
    with ParquetTable(destination(tmp_path)) as table:
        for number, frame in enumerate(
            [
                pl.DataFrame({"id": [1, 2]}),
                pl.DataFrame({"id": [3.5], "word": ["new"]}),
                pl.DataFrame({"id": ["x"], "word": [None]}, schema_overrides={"word": pl.String}),
            ],
            start=1,
        ):
            table.stage(frame)
            table.commit(state_of(number), plan_of(*mode, MOMENT))
    expected = [("1.0", None), ("2.0", None), ("3.5", "new"), ("x", None)]
    assert sorted(pl.scan_parquet(f"{tmp_path}/**/*.parquet").collect().rows()) == expected
    assert sorted(duckdb.sql(f"FROM '{tmp_path}/**/*.parquet'").fetchall()) == expected


def test_partitions_are_read_back_as_they_were(tmp_path):
    values = ["a", "b/c=d", "per%cent", "ü", " ", None, "..", "x y"]
    frame = pl.DataFrame({"id": range(len(values)), "part": values})
    with ParquetTable(destination(tmp_path, partition_by=("part",))) as table:
        table.stage(frame)
        table.commit(state_of(1), plan_of("append", (), None, MOMENT))
        assert table.scan().collect().sort("id").rows() == frame.rows()
    files = list(tmp_path.rglob("*.parquet"))
    assert all(file.parent.parent == tmp_path for file in files)
    hive = pl.scan_parquet(tmp_path / "part=*/*.parquet", hive_partitioning=True).collect().sort("id")
    assert hive.select("id", "part").rows() == frame.rows()
    read = duckdb.sql(
        f"SELECT id, part FROM read_parquet('{tmp_path}/*/*.parquet', hive_partitioning=true) ORDER BY id"
    )
    assert read.fetchall() == frame.rows()


def test_only_files_with_the_keys_that_come_are_written_anew(tmp_path):
    with ParquetTable(destination(tmp_path)) as table:
        load(table, FIRST, 1, ("merge", ("id",), None))
        before = {path: path.stat().st_ino for path in tmp_path.glob("*.parquet")}
        table.stage(rows_of([(9, "b", 99.0, 1)], 2))
        done = table.commit(state_of(2), plan_of("merge", ("id",), None, MOMENT))
    assert (done.added, done.updated, done.rows) == (0, 1, 10)
    after = {path: path.stat().st_ino for path in tmp_path.glob("*.parquet")}
    assert len(before) == 3
    assert len(before.items() & after.items()) == 2


def test_the_same_rows_again_change_no_file(tmp_path):
    with ParquetTable(destination(tmp_path)) as table:
        load(table, FIRST, 1, ("merge", ("id",), None))
        before = sorted(path.name for path in tmp_path.glob("*.parquet"))
        done = load(table, FIRST, 2, ("merge", ("id",), None))
    assert (done.added, done.updated, done.unchanged) == (0, 0, 10)
    assert sorted(path.name for path in tmp_path.glob("*.parquet")) == before


def test_small_files_are_put_together(tmp_path):
    with ParquetTable(destination(tmp_path)) as table:
        for number in range(1, 9):
            table.stage(rows_of([(number, "a", 1.0, 0)], number))
            table.commit(state_of(number), plan_of("append", (), None, MOMENT))
        rows = by_glob(tmp_path)
        assert len(list(tmp_path.glob("*.parquet"))) == 8
        assert table.compact() == 6
    assert len(list(tmp_path.glob("*.parquet"))) == 2
    assert by_glob(tmp_path) == rows
    with ParquetTable(destination(tmp_path)) as table:
        assert table.state.load == 8


def test_a_table_log_that_is_none_is_named(tmp_path):
    (tmp_path / "_penstock").mkdir()
    (tmp_path / "_penstock/table.json").write_text("{")
    with pytest.raises(PenstockError, match=r"table\.json: not what a load wrote"):
        ParquetTable(destination(tmp_path))
