"""Columns that come, go and grow wider, in whatever order: every row keeps its values, and all files have one schema."""

from __future__ import annotations

import tempfile
from datetime import timedelta

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.config.loading import DeltaDestination, DuckDBDestination, ParquetDestination
from penstock.loading.destinations import open_table
from tests.penstock.loading.destinations.conftest import MOMENT, Oracle, plan_of, rows_of, state_of

KINDS = {
    "delta": DeltaDestination(kind="delta", path="orders"),
    "duckdb": DuckDBDestination(kind="duckdb", path="warehouse.duckdb", table="orders"),
    "parquet": ParquetDestination(kind="parquet", path="orders", file_rows=3),
    "parquet in parts": ParquetDestination(kind="parquet", path="orders", partition_by=("id",)),
}
VALUES = {"integer": 1, "number": 1.5, "text": "x"}  # each wider than the one before
FRAME = st.tuples(st.sampled_from(["absent", *VALUES]), st.lists(st.integers(0, 3), max_size=3))


@pytest.mark.parametrize("mode", ["append", "merge", "scd2"])
@pytest.mark.parametrize("kind", KINDS)
def test_columns_come_and_grow_wider(kind, mode):
    @settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(loads=st.lists(st.lists(FRAME, max_size=2), max_size=4))
    def check(loads):
        with tempfile.TemporaryDirectory() as folder:
            _check(f"{folder}/{KINDS[kind].path}", KINDS[kind], mode, loads)

    check()


def _check(path, destination, mode, loads):
    destination = destination.model_copy(update={"path": path})
    oracle = Oracle(mode, () if mode == "append" else ("id",), None)
    widest = 0
    for number, chunks in enumerate(loads, start=1):
        frames = []
        for word, keys in chunks:
            frame = rows_of([(key, "a", 0.0, 0) for key in keys], number)
            if word != "absent":
                # As the engine has it: a column never becomes narrower.
                widest = max(widest, list(VALUES).index(word))
                frame = frame.with_columns(extra=pl.lit(list(VALUES.values())[widest]))
            frames.append(frame)
        plan = plan_of(mode, oracle.keys, None, MOMENT + timedelta(days=number))
        with open_table(destination) as table:
            for frame in frames:
                table.stage(frame)
            table.commit(state_of(number), plan)
        oracle.load(
            [frame if "extra" in frame.columns else frame.with_columns(extra=None) for frame in frames],
            plan.moment,
        )
        with open_table(destination) as table:
            found = table.scan().collect()
        assert _plain(found.to_dicts()) == _plain(oracle.rows)
        if destination.kind == "parquet" and oracle.rows:
            by_glob = pl.scan_parquet(f"{path}/**/*.parquet").collect()
            assert _plain(by_glob.to_dicts()) == _plain(oracle.rows)


def _plain(rows):
    """Rows, in an order of their own; a number is the same one after it became text."""

    def plain(row):
        value = row.get("extra")
        if value not in {None, "x"}:
            value = float(value)
        return row["id"], value, row.get("_valid_from") and row["_valid_from"].timestamp()

    return sorted(map(plain, rows), key=repr)
