"""A folder of Parquet files: ended anywhere, it is the old table or the new one; any reader reads it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
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


def log(folder):
    return json.loads((folder / "_penstock/table.json").read_text())


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


def test_what_is_staged_is_seen_by_nobody(tmp_path):
    with ParquetTable(destination(tmp_path)) as table:
        load(table, FIRST, 1, ("append", (), None))
        before = by_glob(tmp_path)
        table.stage(rows_of(SECOND, 2))
        assert by_glob(tmp_path) == before
        assert duckdb.sql(f"SELECT count(*) FROM '{tmp_path}/**/*.parquet'").fetchall() == [(len(FIRST),)]
        table.rollback()
        assert by_glob(tmp_path) == before
        assert not (tmp_path / "_penstock/staging").exists()


def test_a_failure_after_the_commit_loses_nothing(tmp_path, monkeypatch):
    mode = ("merge", ("id",), None)
    with ParquetTable(destination(tmp_path / "whole")) as table:
        load(table, FIRST, 1, mode)
        load(table, SECOND, 2, mode)
    with ParquetTable(destination(tmp_path / "orders")) as table:
        load(table, FIRST, 1, mode)

        def full(*_):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(table.place, "move", full)
            with pytest.raises(PenstockError, match="No space left on device"):
                load(table, SECOND, 2, mode)
        # As the engine does.
        table.rollback()
    with ParquetTable(destination(tmp_path / "orders")) as table:
        assert table.state.load == 2
        assert by_glob(tmp_path / "orders") == by_glob(tmp_path / "whole")


def test_a_table_goes_on_after_a_failure(tmp_path, monkeypatch):
    with ParquetTable(destination(tmp_path)) as table:
        load(table, FIRST, 1, ("append", (), None))
        with monkeypatch.context() as patch:
            patch.setattr(table.place, "remove", lambda _: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                load(table, SECOND, 2, ("append", (), None))
        table.rollback()
        load(table, SECOND, 3, ("append", (), None))
        assert table.state.load == 3
    assert len(by_glob(tmp_path)) == len(FIRST) + 2 * len(SECOND)


def test_what_others_put_there_stays(tmp_path):
    mode = ("replace", (), None)
    with ParquetTable(destination(tmp_path, partition_by=("part",))) as table:
        load(table, FIRST, 1, mode)
        (tmp_path / "README").write_text("mine")
        (tmp_path / "part=a/notes.txt").write_text("mine")
        load(table, [(1, "b", 1.0, 0)] * 4, 2, mode)
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"README", "part=a/notes.txt"} < names
    assert len([name for name in names if name.endswith(".parquet")]) == 1


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
    values = ["a", "b/c=d", "per%cent", "ü", " ", "", None, "..", "x y", "*?[a]", "a:b"]
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
    # A row has the place of the one that it replaces, so that files keep to their keys.
    assert [table["keys"]["id"] for table in log(tmp_path)["files"]] == [[0, 3], [4, 7], [8, 9]]


def test_files_whose_keys_are_others_are_not_opened(tmp_path, monkeypatch):
    with ParquetTable(destination(tmp_path)) as table:
        for number in range(1, 6):
            table.stage(
                rows_of([(10 * number + key, f"key {number}{key}", 1.0, 0) for key in range(4)], number)
            )
            table.commit(state_of(number), plan_of("merge", ("id", "part"), None, MOMENT))
        read = []
        real = table.place.read_parquet
        monkeypatch.setattr(table.place, "read_parquet", lambda *a: (read.append(a[0]), real(*a))[1])
        # Between the files, and in the third of them, one key of two and both.
        rows = [(15, "key 11", 2.0, 0), (32, "key 99", 2.0, 0), (33, "key 33", 2.0, 0)]
        table.stage(rows_of(rows, 6))
        done = table.commit(state_of(6), plan_of("merge", ("id", "part"), None, MOMENT))
    assert (done.added, done.updated) == (2, 1)
    assert len(set(read)) == 1


def test_moments_to_the_nanosecond_tell_which_files_need_not_be_opened(tmp_path, monkeypatch):
    plan = plan_of("append", ("at",), None, MOMENT)

    def moments(*nanoseconds: int) -> pl.DataFrame:
        return pl.DataFrame({"at": pl.Series(nanoseconds).cast(pl.Datetime("ns", "UTC"))})

    with ParquetTable(destination(tmp_path)) as table:
        for number, start in enumerate((10**18, 10**18 + 10, 10**18 + 20), start=1):
            table.stage(moments(start, start + 3))
            table.commit(state_of(number), plan)
        read = []
        real = table.place.read_parquet
        monkeypatch.setattr(table.place, "read_parquet", lambda *a: (read.append(a[0]), real(*a))[1])
        # Less than a microsecond apart: one is there, one lies within the same file, one between files.
        table.stage(moments(10**18 + 13, 10**18 + 12))
        assert table.commit(state_of(4), plan).added == 1
        assert len({name for name in read if "staging" not in name}) == 1
        table.stage(moments(10**18 + 7))
        assert table.commit(state_of(5), plan).rows == 8


@pytest.mark.parametrize(
    "values",
    [
        [date(2024, 1, 1), date(2025, 6, 1)],
        [datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 6, 1, 12, 30, 0, 1, tzinfo=UTC)],
        [datetime(2024, 1, 1), datetime(2025, 6, 1)],
        [0.5, 1e300],
        ["z" * 1000, "a"],
        [True, None],
        [-(2**63), 2**63 - 1],
    ],
    ids=["date", "datetime", "naive", "number", "long", "boolean", "integer"],
)
def test_keys_of_any_type_are_found_again(tmp_path, values):
    frame = pl.DataFrame({"key": values, "value": [1, 2]})
    plan = plan_of("merge", ("key",), None, MOMENT)
    with ParquetTable(destination(tmp_path)) as table:
        table.stage(frame)
        table.commit(state_of(1), plan)
    for number, row in enumerate(frame.iter_slices(1), start=2):
        with ParquetTable(destination(tmp_path)) as table:
            table.stage(row.with_columns(value=pl.lit(number * 10, dtype=pl.Int64)))
            done = table.commit(state_of(number), plan)
        assert (done.added, done.updated) == (0, 1)


def test_a_table_made_without_keys_has_each_once_when_it_is_merged(tmp_path):
    with ParquetTable(destination(tmp_path)) as table:
        for number in (1, 2, 3):
            table.stage(rows_of([(1, "a", float(number), 0), (2, "b", 0.0, 0)], number))
            table.commit(state_of(number), plan_of("append", (), None, MOMENT))
        table.stage(rows_of([(1, "a", 9.0, 0)], 4))
        done = table.commit(state_of(4), plan_of("merge", ("id",), None, MOMENT))
        assert (done.added, done.updated, done.rows) == (0, 1, 4)
        assert table.scan().filter(pl.col("id") == 1).collect()["value"].to_list() == [9.0]


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


@pytest.mark.parametrize(
    ("plan", "partition_by", "match"),
    [
        (("merge", ("nr",), None), (), "keys: there is no column 'nr'"),
        (("scd2", ("id",), "changed"), (), r"incremental\.cursor: there is no column 'changed'"),
        (("append", (), None), ("country",), r"destination\.partition_by: there is no column 'country'"),
        (("append", (), None), ("part",), "too long for a folder's name"),
    ],
)
def test_columns_that_are_not_there_are_named(tmp_path, plan, partition_by, match):
    with ParquetTable(destination(tmp_path, partition_by=partition_by)) as table:
        table.stage(rows_of([(1, "x" * 300, 1.0, 0)], 1))
        with pytest.raises(PenstockError, match=match):
            table.commit(state_of(1), plan_of(*plan, MOMENT))
        table.rollback()
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with ParquetTable(destination(tmp_path / "file/orders")) as table:
        with pytest.raises(PenstockError, match="Not a directory"):
            load(table, FIRST, 1, ("append", (), None))
        with pytest.raises(PenstockError, match="Not a directory"):
            load(table, FIRST, 1, ("append", (), None))


def test_a_table_log_that_is_none_is_named(tmp_path):
    (tmp_path / "_penstock").mkdir()
    (tmp_path / "_penstock/table.json").write_text("{")
    with pytest.raises(PenstockError, match=r"table\.json: not what a load wrote"):
        ParquetTable(destination(tmp_path))
