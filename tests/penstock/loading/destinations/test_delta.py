"""A Delta table: versions to go back to, rows and state in one act."""

from __future__ import annotations

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
