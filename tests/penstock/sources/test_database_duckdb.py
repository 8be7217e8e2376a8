from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.config.loading import DatabaseSource
from penstock.errors import PenstockError
from penstock.sources.chunks import Chunk, Window
from penstock.sources.database import read_database


def source(path: Path, **more: Any) -> DatabaseSource:
    return DatabaseSource(kind="database", url=f"duckdb:///{path}", **more)


def made(path: Path, *statements: str) -> Path:
    with duckdb.connect(path) as connection:
        for statement in statements:
            connection.execute(statement)
    return path


def rows(chunks: list[Chunk]) -> list[tuple[Any, ...]]:
    return [row for chunk in chunks for row in chunk.frame.rows()]


TYPES = [
    ("UTINYINT", "255", 255),
    ("UBIGINT", "18446744073709551615", 2**64 - 1),
    ("HUGEINT", "170141183460469231731687303715884105727", "170141183460469231731687303715884105727"),
    ("FLOAT", "1.5", 1.5),
    ("DOUBLE", "'-inf'", float("-inf")),
    ("BOOLEAN", "true", True),
    ("DECIMAL(38, 10)", "1234567890123456789012345678.0123456789", Decimal("1234567890123456789012345678.0123456789")),
    ("VARCHAR", "'ä''😀'", "ä'😀"),
    ("BLOB", "'\\xFF\\x00'::BLOB", b"\xff\0"),
    ("DATE", "'2024-02-29'", date(2024, 2, 29)),
    ("DATE", "'infinity'", "infinity"),
    ("DATE", "'-infinity'", "-infinity"),
    ("DATE", "'5000000-01-01'", "5000000-01-01"),
    ("TIMESTAMP", "'2024-02-29 12:00:00.123456'", datetime(2024, 2, 29, 12, 0, 0, 123456)),
    ("TIMESTAMP", "'-infinity'", "-infinity"),
    ("TIMESTAMP_S", "'2024-02-29 12:00:00'", datetime(2024, 2, 29, 12)),
    ("TIMESTAMP_NS", "'2024-02-29 12:00:00.123456789'", "2024-02-29 12:00:00.123456789"),
    ("TIMESTAMPTZ", "'2024-02-29 12:00:00+02'", datetime(2024, 2, 29, 10, tzinfo=UTC)),
    ("TIME", "'24:00:00'", "24:00:00"),
    ("TIMETZ", "'12:34:56+02'", "12:34:56+02"),
    ("INTERVAL", "INTERVAL 1 MONTH", "1 month"),
    ("UUID", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("ENUM('b', 'a')", "'a'", "a"),
    ("JSON", "'{\"a\":  1}'", '{"a":  1}'),
    ("BIT", "'101'", "101"),
    ("INTEGER[]", "[1, NULL]", "[1,null]"),
    ("INTEGER[2]", "[1, 2]", "[1,2]"),
    ("STRUCT(a INTEGER, b VARCHAR)", "{'a': 1, 'b': 'x'}", '{"a":1,"b":"x"}'),
    ("STRUCT(z TIMESTAMPTZ)", "{'z': '2024-02-29 12:00:00+02'}", '{"z":"2024-02-29 10:00:00+00"}'),
    ("MAP(VARCHAR, INTEGER)", "MAP {'a': 1}", '{"a":1}'),
]  # fmt: skip


def test_every_type_comes_back_as_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    path = made(
        tmp_path / "x.duckdb",
        f"CREATE TABLE t ({', '.join(f'c{number} {kind}' for number, (kind, _, _) in enumerate(TYPES))})",
        f"INSERT INTO t VALUES ({', '.join(value for _, value, _ in TYPES)})",
        "INSERT INTO t (c0) VALUES (NULL)",
    )
    with duckdb.connect(path, read_only=True):  # it is not locked
        [chunk] = read_database(source(path, table="t"), Window())
    assert list(zip(TYPES, chunk.frame.row(0), strict=True)) == [(entry, entry[2]) for entry in TYPES]
    assert set(chunk.frame.row(1)) == {None}


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.none() | st.integers(-(2**63), 2**63 - 1),
            st.none() | st.floats(allow_nan=False),
            st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
            st.none() | st.decimals(-(10**27), 10**27, places=8),
            st.none() | st.dates(),
            st.none() | st.datetimes(),
        ),
        max_size=12,
    ),
    st.integers(1, 6),
)
def test_every_value_comes_back(values: list[tuple[Any, ...]], batch: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.duckdb"
        with duckdb.connect(path) as connection:
            connection.execute(
                "CREATE TABLE v (i BIGINT, f DOUBLE, t VARCHAR, n DECIMAL(38, 8), d DATE, m TIMESTAMP)"
            )
            for row in values:
                connection.execute("INSERT INTO v VALUES (?, ?, ?, ?::DECIMAL(38, 8), ?, ?)", list(row))
        assert rows(list(read_database(source(path, table="v"), Window(batch_rows=batch)))) == values


def test_a_cursor_sorts_and_bounds(tmp_path: Path) -> None:
    path = made(
        tmp_path / "x.duckdb",
        "CREATE SCHEMA s",
        "CREATE TABLE s.t AS SELECT range AS id, TIMESTAMP '2024-01-01' + INTERVAL (9 - range) HOUR AS at FROM range(10)",
        "INSERT INTO s.t VALUES (99, NULL)",
    )
    window = Window(
        cursor="at",
        since="2024-01-01T04:00:00+01:00",
        until=datetime(2024, 1, 1, 6, tzinfo=UTC),
        batch_rows=2,
    )
    *good, last = read_database(source(path, table="s.t"), window)
    assert [row[0] for row in rows(good)] == [6, 5, 4]
    assert [chunk.boundary for chunk in good] == [True, True]
    assert last.broken.height == 1
    by_name = Window(cursor="id", since=7.5)
    assert [row[0] for row in rows(list(read_database(source(path, table="s.t"), by_name)))] == [8, 9, 99]


def test_memory_does_not_hold_the_result(tmp_path: Path) -> None:
    """A hundred billion rows: nothing that is not streamed would give the first."""
    path = made(tmp_path / "x.duckdb", "CREATE TABLE t (id INTEGER)")
    reading = read_database(
        source(path, query="SELECT range AS id FROM range(100000000000)"), Window(batch_rows=1000)
    )
    assert next(reading).frame["id"].to_list() == list(range(1000))
    reading.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"table": "order"}, "there is no table 'order'\n  → did you mean 'orders'?"),
        ({"query": "SELEKT id"}, "syntax error"),
        ({"query": "SELECT 1 AS a, 2 AS a"}, "two columns are called 'a'"),
        ({"query": "SELECT 'x'::INTEGER AS a"}, "Could not convert string 'x'"),
        (
            {
                "query": "SELECT (CASE range WHEN 500000 THEN 'x' ELSE '1' END)::INTEGER AS a FROM range(900000)"
            },
            "Could not convert string 'x'",
        ),
        ({"query": "DROP TABLE orders"}, "syntax error"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, chosen: dict[str, str], says: str) -> None:
    path = made(tmp_path / "x.duckdb", "CREATE TABLE orders (id INTEGER)")
    with pytest.raises(PenstockError) as caught:
        list(read_database(source(path, **chosen), Window()))
    assert says in str(caught.value)
    assert rows(list(read_database(source(path, table="orders"), Window()))) == []


def test_a_missing_file_is_an_error_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(PenstockError, match="no such file"):
        list(read_database(source(tmp_path / "no.duckdb", table="t"), Window()))
    assert not (tmp_path / "no.duckdb").exists()


def test_types_stay_when_all_values_are_missing(tmp_path: Path) -> None:
    path = made(
        tmp_path / "x.duckdb", "CREATE TABLE t (i INTEGER, d DATE)", "INSERT INTO t VALUES (NULL, NULL)"
    )
    [chunk] = read_database(source(path, table="t"), Window())
    assert chunk.frame.schema == {"i": pl.Int32, "d": pl.Date}
