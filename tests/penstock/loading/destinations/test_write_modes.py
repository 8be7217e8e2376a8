"""Whatever is loaded in whatever mode, a table holds what an oracle of plain dictionaries holds."""

from __future__ import annotations

import itertools
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.config.loading import (
    DeltaDestination,
    DuckDBDestination,
    ParquetDestination,
    PostgresDestination,
)
from penstock.loading.destinations import merging, open_table, waiting
from tests.penstock.loading.destinations.conftest import MOMENT, Oracle, plan_of, rows_of, shown, state_of
from tests.servers.postgres import postgres

ROW = st.tuples(
    st.one_of(st.none(), st.integers(0, 5)),
    st.sampled_from(["a", "b/c=d", None]),
    st.sampled_from([1.0, 2.5, None]),
    st.integers(0, 6),
)
LOADS = st.lists(st.lists(st.lists(ROW, max_size=6), max_size=3), max_size=4)
MODES = [
    ("append", (), None),
    ("append", ("id",), None),
    ("replace", (), None),
    ("merge", ("id",), None),
    ("merge", ("id", "part"), "at"),
    ("merge", ("id",), "value"),
    ("scd2", ("id",), None),
    ("scd2", ("id",), "at"),
    ("scd2", ("id", "part"), "value"),
]


def parquet(folder, **others):
    return ParquetDestination(kind="parquet", path=f"{folder}/orders", file_rows=3, **others)


def duckdb(folder):
    return DuckDBDestination(kind="duckdb", path=f"{folder}/warehouse.duckdb", table="odd schema.Orders")


def delta(folder, name="orders", **others):
    return DeltaDestination(kind="delta", path=f"{folder}/{name}", **others)


# Examples for each mode: a transaction of a database takes longer than a file.
KINDS = {
    "delta": (delta, 10),
    "delta in parts": (lambda folder: delta(folder, "all orders", partition_by=("part",)), 6),
    "duckdb": (duckdb, 8),
    "parquet": (parquet, 12),
    "parquet in parts": (lambda folder: parquet(folder, partition_by=("part",)), 10),
    # As with more rows than can be in memory.
    "delta, many rows": (delta, 8),
    "parquet, many rows": (parquet, 12),
    "postgres": (None, 8),
}


@pytest.fixture(scope="session")
def server():
    with postgres() as at:
        yield at


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("write", "keys", "order"), MODES)
def test_any_loads_give_what_the_oracle_gives(request, monkeypatch, kind, write, keys, order):
    make, examples = KINDS[kind]
    if "many rows" in kind:
        monkeypatch.setattr(merging, "ROUND", 2)
        monkeypatch.setattr(waiting, "BYTES", 0)
    if make is None:
        at = request.getfixturevalue("server")
        monkeypatch.setenv("PG_PASSWORD", at["password"])
        url = f"postgresql://{at['user']}:${{secret:PG_PASSWORD}}@{at['host']}:{at['port']}/{at['dbname']}"
        numbers = itertools.count()

        def make(_):
            table = f"odd schema.{write} {len(keys)} {order} {next(numbers)}"
            return PostgresDestination(kind="postgres", url=url, table=table)

    @settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(loads=LOADS)
    def check(loads):
        _check(make, write, keys, order, loads)

    check()


def _check(make, write, keys, order, loads):
    with tempfile.TemporaryDirectory() as folder:
        destination = make(folder)
        oracle = Oracle(write, keys, order)
        for number, chunks in enumerate(loads, start=1):
            frames = [rows_of(chunk, number) for chunk in chunks]
            moment = MOMENT + timedelta(days=30 + number // 2)  # several commits of one load have one
            with open_table(destination) as table:
                assert table.state.load == number - 1
                for frame in frames:
                    table.stage(frame)
                done = table.commit(state_of(number), plan_of(write, keys, order, moment))
            expected = oracle.load(frames, moment)
            with open_table(destination) as table:
                found = table.scan().collect().to_dicts()
            assert shown(found) == oracle.shown()
            assert (done.added, done.updated, done.unchanged) == expected
            assert done.rows == len(oracle.rows)
        assert not list(Path(folder).rglob("*staging*"))
