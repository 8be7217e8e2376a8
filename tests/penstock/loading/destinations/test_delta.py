"""A Delta table: versions to go back to, rows and state in one act."""

from __future__ import annotations

import os
import shutil

import deltalake
import polars as pl
import pytest

from penstock.config.loading import DeltaDestination
from penstock.errors import PenstockError
from penstock.loading.destinations.delta import DeltaTable
from tests.penstock.loading.destinations.conftest import MOMENT, plan_of, rows_of, state_of

MERGE = plan_of("merge", ("id",), None, MOMENT)


def destination(folder):
    return DeltaDestination(kind="delta", path=str(folder))


def load(table, rows, number):
    table.stage(rows_of(rows, number))
    return table.commit(state_of(number, resume={"at": number}), MERGE)


def test_an_older_version_is_still_there(tmp_path):
    with DeltaTable(destination(tmp_path)) as table:
        load(table, [(1, "a", 1.0, 0)], 1)
        load(table, [(1, "a", 2.0, 0), (2, "b", 3.0, 0)], 2)
        now = table.scan().collect().sort("id")
        assert now["value"].to_list() == [2.0, 3.0]
        assert table.scan(version=0).collect()["value"].to_list() == [1.0]


def test_wider_types_and_new_columns(tmp_path):
    with DeltaTable(destination(tmp_path)) as table:
        for number, frame in enumerate(
            [
                pl.DataFrame({"id": [1]}),
                pl.DataFrame({"id": [2.5], "word": ["new"]}),
                pl.DataFrame({"id": ["x"]}),
            ],
            start=1,
        ):
            table.stage(frame)
            table.commit(state_of(number), plan_of("append", (), None, MOMENT))
        assert sorted(table.scan().collect().rows()) == [("1.0", None), ("2.5", "new"), ("x", None)]


def test_a_column_grows_wider_in_the_version_that_brings_the_rows(tmp_path):
    with DeltaTable(destination(tmp_path)) as table:
        load(table, [(1, "a", 1.0, 0), (2, "b", 2.0, 0)], 1)
        table.stage(
            rows_of([(2, "b", 2.0, 0), (3, "b", 3.0, 0)], 2).with_columns(value=pl.Series(["x", "y"]))
        )
        done = table.commit(state_of(2), MERGE)
        assert (done.added, done.updated, done.rows) == (1, 1, 3)
        assert table.table.version() == 1
        assert sorted(table.scan().select("id", "value").collect().rows()) == [(1, "1.0"), (2, "x"), (3, "y")]
        assert table.scan(version=0).collect_schema()["value"] == pl.Float64


def test_only_files_with_the_keys_that_come_are_written_anew(tmp_path):
    with DeltaTable(destination(tmp_path)) as table:
        for number in range(1, 5):
            table.stage(rows_of([(10 * number + key, "a", 1.0, 0) for key in range(5)], number))
            table.commit(state_of(number), plan_of("append", (), None, MOMENT))
        before = set(table.table.file_uris())
        done = load(table, [(23, "a", 2.0, 0), (27, "a", 2.0, 0)], 5)
        assert (done.added, done.updated, done.rows) == (1, 1, 21)
        assert len(before - set(table.table.file_uris())) == 1
        # Nothing to replace is an append; nothing at all is a version nevertheless, with its state.
        before = set(table.table.file_uris())
        load(table, [(99, "a", 2.0, 0)], 6)
        assert before < set(table.table.file_uris())
        done = load(table, [(99, "a", 2.0, 0)], 7)
        assert (done.unchanged, table.state.load) == (1, 7)


def test_names_are_taken_to_the_letter_or_refused(tmp_path):
    names = ["select", 'has"quotes', "Upper", "upper_", "ümlaut", "per%cent", "a.b"]
    for write in ("merge", "scd2"):
        with DeltaTable(destination(tmp_path / write)) as table:
            for number in (1, 2):
                table.stage(pl.DataFrame({"Id": [1, 2], **{name: [number, 2] for name in names}}))
                done = table.commit(state_of(number), plan_of(write, ("Id",), None, MOMENT))
            assert done.updated == 1
            assert set(table.scan().filter(pl.col("Id") == 1).select(names).collect().rows()) >= {
                (2,) * len(names)
            }
            with pytest.raises(PenstockError, match="no columns of names like 'order id'"):
                table.stage(pl.DataFrame({"order id": [1]}))


def test_the_number_of_a_load_outlives_the_log(tmp_path):
    with DeltaTable(destination(tmp_path)) as table:
        load(table, [(1, "a", 1.0, 0)], 1)
        load(table, [(2, "a", 1.0, 0)], 2)
        table.table.create_checkpoint()
    for version in (0, 1):
        (tmp_path / f"_delta_log/{version:020d}.json").unlink()
    with DeltaTable(destination(tmp_path)) as table:
        assert table.state.load == 2
        assert table.scan().collect().height == 2
    (tmp_path / "_penstock/state-2.json").unlink()
    with pytest.raises(PenstockError, match=r"state-2\.json: is missing"):
        DeltaTable(destination(tmp_path))


def test_files_are_put_together_and_older_versions_stay_readable(tmp_path):
    with DeltaTable(destination(tmp_path)) as table:
        for number in range(1, 6):
            load(table, [(number, "a", 1.0, 0)], number)
        assert table.compact() == 4
    with DeltaTable(destination(tmp_path)) as table:
        assert table.state.load == 5
        assert table.scan().collect().height == 5
        assert table.scan(version=0).collect().height == 1


def test_a_table_of_others_is_left_alone(tmp_path):
    deltalake.write_deltalake(str(tmp_path), pl.DataFrame({"x": [1]}).to_arrow())
    with pytest.raises(PenstockError, match="no load made"):
        DeltaTable(destination(tmp_path))
    pl.DataFrame({"x": [1]}).write_parquet(tmp_path / "_delta_log/../mine.parquet")
    shutil.rmtree(tmp_path / "_delta_log")
    with pytest.raises(PenstockError, match="Parquet files, which no load wrote"):
        DeltaTable(destination(tmp_path))


def test_what_a_killed_commit_left_goes_in_the_end_and_nothing_else(tmp_path):
    with DeltaTable(destination(tmp_path)) as table:
        load(table, [(1, "a", 1.0, 0)], 1)
        [path] = tmp_path.glob("*.parquet")
        stray = tmp_path / path.name.replace("part-00000-", "part-00007-")
        mine = tmp_path / "mine.parquet"
        for copy in (stray, mine):
            copy.write_bytes(path.read_bytes())
            os.utime(copy, (0, 0))
        table.compact()
    assert not stray.exists()
    assert mine.exists()
    assert path.exists()
