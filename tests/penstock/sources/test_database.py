"""Reading a database, seen on SQLite: files that any test can make."""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Generator, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import contract
from penstock.config import Column
from penstock.config.loading import DatabaseSource
from penstock.errors import PenstockError
from penstock.sources.chunks import Chunk, Window
from penstock.sources.database import _by_turns, read_database
from penstock.sources.database_interface import Database, Field, Select


def source(path: Path, **more: Any) -> DatabaseSource:
    return DatabaseSource(kind="database", url=f"sqlite:///{path}", **more)


def made(path: Path, *statements: str) -> Path:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    return path


def rows(chunks: Iterator[Chunk] | list[Chunk]) -> list[tuple[Any, ...]]:
    return [row for chunk in chunks for row in chunk.frame.rows()]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return made(
        tmp_path / "shop.sqlite",
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, amount REAL, city TEXT, at DATETIME)",
        "INSERT INTO orders VALUES (1, 1.5, 'Ulm', '2024-01-01 10:00:00'), (2, NULL, 'Åre', '2024-01-01T09:00:00Z'),"
        " (3, 2, NULL, NULL), (4, 1e300, 'Rom', '2024-01-01T12:30:00+02:00')",
    )


def test_a_table_is_read_in_chunks_that_know_their_place(base: Path) -> None:
    chunks = list(read_database(source(base, table="orders"), Window(batch_rows=3)))
    assert [chunk.position for chunk in chunks] == [0, 3]
    assert [chunk.frame.height for chunk in chunks] == [3, 1]
    assert {chunk.source for chunk in chunks} == {f"sqlite:///{base} orders"}
    assert not any(chunk.boundary for chunk in chunks)
    assert chunks[0].frame.schema == {
        "id": pl.Int64,
        "amount": pl.Float64,
        "city": pl.String,
        "at": pl.String,
    }
    assert rows(chunks)[1] == (2, None, "Åre", "2024-01-01T09:00:00Z")


def test_columns_are_those_asked_for_in_that_order(base: Path) -> None:
    [chunk] = read_database(source(base, table="orders", columns=("city", "id")), Window())
    assert chunk.frame.columns == ["city", "id"]


def test_a_query_may_end_as_people_end_them(base: Path) -> None:
    [chunk] = read_database(
        source(base, query="SELECT id, id * 2 AS twice FROM orders -- all\n;\n"), Window()
    )
    assert chunk.frame.rows()[3] == (4, 8)
    [chunk] = read_database(source(base, query="SELECT id FROM orders -- all"), Window())
    assert chunk.frame.height == 4


def test_values_that_are_not_of_their_column_reach_the_contract(tmp_path: Path) -> None:
    path = made(
        tmp_path / "x.sqlite",
        "CREATE TABLE t (n INTEGER, r REAL, s TEXT)",
        "INSERT INTO t VALUES (1, 1.5, 'a'), ('many', 2.5, x'ff00'), (NULL, NULL, NULL), (9223372036854775807, 'x', 7)",
        "INSERT INTO t VALUES (5, 5, 'b')",
    )
    first, second = read_database(source(path, table="t"), Window(batch_rows=4))
    assert first.frame["n"].to_list() == ["1", "many", None, "9223372036854775807"]
    assert first.frame["s"].to_list() == ["a", "/wA=", None, "7"]
    assert second.frame.schema == {"n": pl.Int64, "r": pl.Float64, "s": pl.String}
    columns = {"n": Column(type="integer", nullable=True), "r": Column(type="number", nullable=True)}
    checked = contract.check(first.frame, columns, source=first.source, position=first.position)
    assert checked.bad["reason"].to_list() == [
        "n: expected integer, found 'many'",
        "r: expected number, found 'x'",
    ]
    assert checked.good["n"].to_list() == [1, None]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.one_of(
                st.none(),
                st.integers(-(2**63), 2**63 - 1),
                st.text(),
                st.floats(allow_nan=False),
                st.binary(),
            ),
            st.one_of(st.none(), st.floats(allow_nan=False)),
            st.one_of(st.none(), st.text()),
        ),
        max_size=20,
    ),
    st.integers(1, 7),
)
def test_every_value_comes_back(values: list[tuple[Any, ...]], batch: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.sqlite"
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE t (anything, r REAL, s TEXT)")
        connection.executemany("INSERT INTO t VALUES (?, ?, ?)", values)
        connection.commit()
        connection.close()
        got = rows(read_database(source(path, table="t"), Window(batch_rows=batch)))
    assert [row[1:] for row in got] == [row[1:] for row in values]
    for (found, *_), (value, *_) in zip(got, values, strict=True):
        if found != value:  # it is text, since another value of the chunk is of another type
            assert isinstance(found, str)
            assert found == (base64.b64encode(value).decode() if isinstance(value, bytes) else str(value))


# --- cursors ----------------------------------------------------------------------------------------


def test_a_cursor_sorts_and_bounds(base: Path) -> None:
    window = Window(cursor="id", since=2, until=4, batch_rows=1)
    chunks = list(read_database(source(base, table="orders"), window))
    assert [row[0] for row in rows(chunks)] == [2, 3]
    assert all(chunk.boundary for chunk in chunks)
    exclusive = Window(cursor="id", since=2, exclusive=True)
    assert [row[0] for row in rows(read_database(source(base, table="orders"), exclusive))] == [3, 4]


def test_times_that_are_text_are_compared_as_times(base: Path) -> None:
    """By their letters, 'T' is after a blank, and an offset means nothing."""
    chunks = list(read_database(source(base, table="orders"), Window(cursor="at")))
    assert [row[0] for row in rows(chunks)] == [2, 1, 4]
    day = Window(cursor="at", since=date(2024, 1, 1), until=date(2024, 1, 2))
    assert len(rows(read_database(source(base, table="orders"), day))) == 3
    late = Window(cursor="at", since=datetime(2024, 1, 1, 10, tzinfo=UTC))
    assert [row[0] for row in rows(read_database(source(base, table="orders"), late))] == [1, 4]
    later = Window(cursor="at", since="2024-01-01T10:00:00+00:00", exclusive=True)
    assert [row[0] for row in rows(read_database(source(base, table="orders"), later))] == [4]


def test_a_time_that_is_none_is_not_passed_over(tmp_path: Path) -> None:
    path = made(
        tmp_path / "x.sqlite", "CREATE TABLE t (at DATETIME)", "INSERT INTO t VALUES ('soon'), ('2024-01-01')"
    )
    window = Window(
        cursor="at", since=datetime(2024, 6, 1, tzinfo=UTC), until=datetime(2024, 7, 1, tzinfo=UTC)
    )
    assert rows(read_database(source(path, table="t"), window)) == [("soon",)]


def test_text_is_compared_by_code_points(tmp_path: Path) -> None:
    path = made(
        tmp_path / "x.sqlite",
        "CREATE TABLE t (c TEXT COLLATE NOCASE, loose)",
        "INSERT INTO t VALUES ('a', 5), ('B', 'a'), ('c', 'c')",
    )
    chunks = read_database(source(path, table="t", columns=("c",)), Window(cursor="c"))
    assert rows(chunks) == [("B",), ("a",), ("c",)]
    after = Window(cursor="c", since="a", exclusive=True)
    assert rows(read_database(source(path, table="t", columns=("c",)), after)) == [("c",)]
    # SQLite has every number before any text; that of the contract may be another order.
    after = Window(cursor="loose", since="b")
    assert rows(read_database(source(path, table="t", columns=("loose",)), after)) == [("5",), ("c",)]


def test_rows_without_a_cursor_are_told_in_the_last_chunks(base: Path) -> None:
    *good, last = read_database(source(base, table="orders"), Window(cursor="at", batch_rows=2))
    assert sum(chunk.frame.height for chunk in good) == 3
    assert last.frame.is_empty()
    assert last.frame.columns == ["id", "amount", "city", "at"]
    assert last.reasons == {"at: missing": 1}
    assert last.broken.schema == contract.QUARANTINE_SCHEMA
    [broken] = last.broken.rows(named=True)
    assert broken == {
        "source": f"sqlite:///{base} orders",
        "position": 3,
        "reason": "at: expected a value, found none",
        "row": '{"id":"3","amount":"2.0","city":null,"at":null}',
    }
    assert last.boundary


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.integers(0, 5), st.text("aB é'", max_size=2)), max_size=12),
    st.integers(1, 4),
    st.data(),
)
def test_nothing_is_lost_by_stopping_at_any_boundary(
    cursors: list[Any], batch: int, data: st.DataObject
) -> None:
    """Of one type: a cursor is either text or a number; the engine takes the largest, and reads again from there."""
    kind = data.draw(st.sampled_from([int, str]))
    values = [value for value in cursors if value is None or isinstance(value, kind)]
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.sqlite"
        connection = sqlite3.connect(path)
        connection.execute(
            f"CREATE TABLE t (id INTEGER PRIMARY KEY, c {'INTEGER' if kind is int else 'TEXT COLLATE NOCASE'})"
        )
        connection.executemany("INSERT INTO t (c) VALUES (?)", [(value,) for value in values])
        connection.commit()
        connection.close()
        seen: set[int] = set()
        largest: Any = None
        for _ in range(3):
            stop = data.draw(st.integers(1, 5))
            for number, chunk in enumerate(
                read_database(source(path, table="t"), Window(cursor="c", since=largest, batch_rows=batch)), 1
            ):
                seen |= set(chunk.frame["id"])
                known = [value for value in [largest, *chunk.frame["c"]] if value is not None]
                largest = max(known, default=None)
                if number == stop:
                    break
        for chunk in read_database(
            source(path, table="t"), Window(cursor="c", since=largest, batch_rows=batch)
        ):
            seen |= set(chunk.frame["id"])
    assert seen == {number for number, value in enumerate(values, 1) if value is not None}


# --- one moment -------------------------------------------------------------------------------------


def test_what_another_writes_meanwhile_is_not_seen(tmp_path: Path) -> None:
    path = made(
        tmp_path / "x.sqlite",
        "PRAGMA journal_mode = WAL",
        "CREATE TABLE t (id INTEGER, c INTEGER)",
        "INSERT INTO t SELECT value, value FROM json_each('[1,2,3,4,5,6,7,8,9]')",
        "INSERT INTO t VALUES (0, NULL)",
    )
    reading = read_database(source(path, table="t"), Window(cursor="c", batch_rows=2))
    first = next(reading)
    made(
        path,
        "DELETE FROM t WHERE id > 5",
        "INSERT INTO t VALUES (10, 10)",
        "UPDATE t SET c = NULL WHERE id = 1",
    )
    rest = list(reading)
    assert [row[0] for row in rows([first, *rest])] == list(range(1, 10))
    assert sum(chunk.broken.height for chunk in rest) == 1


def test_a_reader_that_is_left_lets_go_of_the_file(tmp_path: Path) -> None:
    path = made(tmp_path / "x.sqlite", "CREATE TABLE t (id INTEGER)", *["INSERT INTO t VALUES (1)"] * 50)
    reading = read_database(source(path, table="t"), Window(batch_rows=1))
    next(reading)
    reading.close()  # type: ignore[attr-defined]
    writer = sqlite3.connect(path, timeout=0)
    writer.execute("DROP TABLE t")
    writer.close()


class Counting(Database):
    """Gives the frames it was made with; then fails, if it has to."""

    def __init__(self, *numbers: int, fails: bool = False) -> None:
        self.numbers, self.fails = numbers, fails

    def fields(self, relation: str, query: str | None) -> list[Field]:
        raise NotImplementedError

    def tables(self) -> list[str]:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def batches(self, select: Select, rows: int) -> Generator[pl.DataFrame]:  # noqa: ARG002
        for number in self.numbers:
            yield pl.DataFrame({"x": [number]})
        if self.fails:
            raise PenstockError("gone")


def test_parts_take_turns_and_pass_their_errors_on() -> None:
    nothing = Select("", [])
    parts = [
        (Counting(1, 4), nothing),
        (Counting(), nothing),
        (Counting(2, 5, 6), nothing),
        (Counting(3), nothing),
    ]
    assert [frame.item() for frame in _by_turns(parts, 1)] == [1, 2, 3, 4, 5, 6]
    reading = _by_turns([(Counting(1, 3, 5), nothing), (Counting(2, fails=True), nothing)], 1)
    assert [next(reading).item() for _ in range(3)] == [1, 2, 3]
    with pytest.raises(PenstockError, match="gone"):
        next(reading)


# --- names and mistakes -----------------------------------------------------------------------------


def test_names_are_no_statements(tmp_path: Path) -> None:
    name, column = 'a"; DROP TABLE b; --', 'x"; --'
    quoted, inner = name.replace('"', '""'), column.replace('"', '""')
    path = made(
        tmp_path / "x.sqlite",
        f'CREATE TABLE "{quoted}" ("{inner}" TEXT)',
        f"INSERT INTO \"{quoted}\" VALUES ('o''clock')",
        "CREATE TABLE b (x)",
    )
    window = Window(cursor=column, since="'; DROP TABLE b; --")
    assert rows(read_database(source(path, table=f'"{quoted}"', columns=(column,)), window)) == [("o'clock",)]
    assert rows(read_database(source(path, table="b"), Window())) == []


@pytest.mark.parametrize(
    ("chosen", "window", "says"),
    [
        ({"table": "order"}, Window(), "there is no table 'order'\n  → did you mean 'orders'?"),
        ({"table": "ORDERS2"}, Window(), "there is no table 'ORDERS2'"),
        ({"table": "orders", "columns": ("id", "citi")}, Window(), "did you mean 'city'?"),
        ({"table": "orders"}, Window(cursor="att"), "incremental.cursor: there is no column 'att'"),
        ({"table": "orders", "columns": ("id",)}, Window(cursor="at"), "add 'at'"),
        ({"table": "orders"}, Window(cursor="id", since="x"), "'id' is INTEGER; 'x' is none"),
        ({"table": "orders"}, Window(cursor="at", since="x"), "holds times; 'x' is none"),
        ({"table": "orders"}, Window(cursor="amount", since=float("nan")), "cannot be compared with nan"),
        ({"table": "orders", "partition": "city", "partitions": 2}, Window(), "divide by an integer"),
        ({"query": "SELEKT 1"}, Window(), "syntax error"),
        ({"query": "DELETE FROM orders"}, Window(), 'near "DELETE"'),
        ({"query": "SELECT absent FROM orders"}, Window(), "no such column: absent"),
    ],
)
def test_mistakes_are_named(base: Path, chosen: dict[str, Any], window: Window, says: str) -> None:
    with pytest.raises(PenstockError) as caught:
        list(read_database(source(base, **chosen), window))
    assert says in str(caught.value)


def test_a_missing_file_is_an_error_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(PenstockError, match="no such file"):
        list(read_database(source(tmp_path / "no.sqlite", table="t"), Window()))
    assert not (tmp_path / "no.sqlite").exists()


def test_text_that_is_not_utf8_is_shown_as_its_bytes(tmp_path: Path) -> None:
    path = made(
        tmp_path / "x.sqlite",
        "CREATE TABLE t (s TEXT)",
        "INSERT INTO t VALUES (CAST(x'ff00' AS TEXT)), ('a')",
    )
    assert rows(read_database(source(path, table="t"), Window())) == [("/wA=",), ("a",)]


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.sqlite").write_bytes(b"id,city\n1,Ulm\n" * 100)
    with pytest.raises(PenstockError, match="not a database"):
        list(read_database(source(tmp_path / "x.sqlite", table="t"), Window()))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("orders.sqlite", "source.url: it is no address"),
        ("sqlite://", "sqlite needs a file"),
        ("nosuch://u:p4ssword@host/x", "source.url: nosuch://host/x cannot be opened"),
    ],
)
def test_addresses_that_are_none(url: str, says: str) -> None:
    with pytest.raises(PenstockError) as caught:
        list(read_database(DatabaseSource(kind="database", url=url, table="t"), Window()))
    assert says in str(caught.value)
    assert "p4ssword" not in str(caught.value)


def test_a_day_is_not_the_end_of_the_year() -> None:
    """Guard of the helper: the bound of a lag may fall before the year 1000, where strftime drops zeros."""
    from penstock.sources.database_interface import literal

    assert (
        literal(datetime(24, 1, 2, tzinfo=UTC) + timedelta(microseconds=3)) == "'0024-01-02 00:00:00.000003'"
    )
