from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import polars as pl
import pymysql
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.config.loading import DatabaseSource
from penstock.errors import PenstockError
from penstock.sources.chunks import Chunk, Window
from penstock.sources.database import read_database
from tests.servers.mariadb import PASSWORD, mariadb
from tests.servers.programs import until

Server = dict[str, Any]
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with mariadb("sql-mode=", "default-time-zone=+05:00") as started:  # days of zeros are allowed
        yield started


@pytest.fixture(scope="module")
def run(server: Server) -> Iterator[Run]:
    connection = pymysql.connect(**server, autocommit=True)

    def ran(sql: str, *values: Any) -> Any:
        with connection.cursor() as cursor:
            cursor.execute(sql, values or None)
            return cursor.fetchall()

    yield ran
    connection.close()


@pytest.fixture
def source(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., DatabaseSource]:
    monkeypatch.setenv("SHOP_PASSWORD", PASSWORD)
    address = f"mariadb://penstock:${{secret:SHOP_PASSWORD}}@127.0.0.1:{server['port']}/penstock"

    def made(url: str = address, **more: Any) -> DatabaseSource:
        return DatabaseSource(kind="database", url=url, **more)

    return made


def rows(chunks: list[Chunk]) -> list[tuple[Any, ...]]:
    return [row for chunk in chunks for row in chunk.frame.rows()]


TYPES = [
    ("tinyint(1)", "1", 1),
    ("bigint", "-9223372036854775808", -(2**63)),
    ("bigint unsigned", "18446744073709551615", 2**64 - 1),
    ("float", "16777215", 16777215.0),
    ("double", "1e-300", 1e-300),
    ("decimal(30, 5)", "1234567890123456789012345.12345", Decimal("1234567890123456789012345.12345")),
    ("decimal(65, 30)", "12345678901234567890123456789012345.5", "12345678901234567890123456789012345.500000000000000000000000000000"),
    ("date", "'2024-02-29'", date(2024, 2, 29)),
    ("date", "'0000-00-00'", "0000-00-00"),
    ("date", "'2024-02-00'", "2024-02-00"),
    ("datetime(6)", "'2024-02-29 12:00:00.123456'", datetime(2024, 2, 29, 12, 0, 0, 123456)),
    ("datetime", "'0000-00-00 00:00:00'", "0000-00-00 00:00:00"),
    ("timestamp", "'2024-02-29 12:00:00'", datetime(2024, 2, 29, 7)),
    ("time(3)", "'-100:10:10.123'", "-100:10:10.123"),
    ("year", "2024", 2024),
    ("bit(64)", "b'1111111111111111111111111111111111111111111111111111111111111111'", 2**64 - 1),
    ("json", "'{\"a\": 1}'", '{"a": 1}'),
    ("enum('b', 'a')", "'a'", "a"),
    ("set('x', 'y')", "'x,y'", "x,y"),
    ("blob", "x'deadff00'", b"\xde\xad\xff\x00"),
    ("binary(3)", "x'ff'", b"\xff\0\0"),
    ("longtext", "'ä😀'", "ä😀"),
    ("varchar(9) character set latin1", "'ä'", "ä"),
    ("uuid", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("inet6", "'::1'", "::1"),
]  # fmt: skip


def test_every_type_comes_back_as_what_it_was(run: Run, source: Callable[..., DatabaseSource]) -> None:
    columns = ", ".join(f"c{number} {kind} NULL" for number, (kind, _, _) in enumerate(TYPES))
    run(f"CREATE TABLE types ({columns}) CHARACTER SET utf8mb4")
    run(f"INSERT INTO types VALUES ({', '.join(value for _, value, _ in TYPES)})")
    run("INSERT INTO types (c0) VALUES (NULL)")
    [chunk] = read_database(source(table="types"), Window())
    assert list(zip(TYPES, chunk.frame.row(0), strict=True)) == [(entry, entry[2]) for entry in TYPES]
    assert set(chunk.frame.row(1)) == {None}
    run("DELETE FROM types WHERE c0 IS NOT NULL")
    [nulls] = read_database(source(table="penstock.types"), Window())
    assert nulls.frame.dtypes[5:8] == [pl.Decimal(38, 5), pl.Decimal(38, 30), pl.Date()]


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
MOMENTS = st.datetimes(min_value=datetime(1000, 1, 1))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(
        st.tuples(
            st.none() | st.integers(0, 2**64 - 1),
            st.none() | st.floats(allow_nan=False, allow_infinity=False),
            st.none() | st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False),
            st.none() | TEXT,
            st.none() | st.decimals(-(10**27), 10**27, places=8),
            st.none() | st.dates(min_value=date(1000, 1, 1)),
            st.none() | MOMENTS,
            st.none() | st.binary(max_size=20),
        ),
        max_size=12,
    ),
    batch=st.integers(1, 6),
)
def test_every_value_comes_back(
    run: Run, source: Callable[..., DatabaseSource], values: list[tuple[Any, ...]], batch: int
) -> None:
    run(
        "CREATE OR REPLACE TABLE v (i bigint unsigned, f double, g float, t text, n decimal(38, 8), d date,"
        " m datetime(6), b blob) CHARACTER SET utf8mb4"
    )
    for row in values:
        run("INSERT INTO v VALUES (%s, %s, %s, %s, %s, %s, %s, %s)", *row)
    found = rows(list(read_database(source(table="v"), Window(batch_rows=batch))))
    assert found == values


def test_what_another_writes_meanwhile_is_not_seen(run: Run, source: Callable[..., DatabaseSource]) -> None:
    run("CREATE TABLE moving (id int, c int, filler text)")
    run("INSERT INTO moving SELECT seq, nullif(seq, 7), repeat('x', 1000) FROM seq_1_to_9000")
    reading = read_database(source(table="moving"), Window(cursor="c", batch_rows=100))
    chunks = [next(reading)]
    assert chunks[0].boundary
    run("DELETE FROM moving WHERE id % 2 = 0")
    run("INSERT INTO moving VALUES (0, 0, ''), (99999, NULL, '')")
    chunks.extend(reading)
    assert [row[0] for row in rows(chunks)] == [number for number in range(1, 9001) if number != 7]
    assert sum(chunk.broken.height for chunk in chunks) == 1


@pytest.mark.parametrize(
    ("kind", "values", "since", "until", "expected"),
    [
        ("datetime(6)", ["2024-01-01 10:00", "2024-01-01 12:00", "2024-01-02"], "2024-01-01T13:00:00+01:00", datetime(2024, 1, 2, tzinfo=UTC), [2]),
        ("timestamp", ["2024-01-01 10:00", "2024-01-01 12:00"], datetime(2024, 1, 1, 6, tzinfo=UTC), None, [2]),
        ("date", ["2024-01-01", "2024-01-02", "2024-01-03"], "2024-01-02", datetime(2024, 1, 2, 12, tzinfo=UTC), [2]),
        ("bigint unsigned", ["1", "18446744073709551615"], 2, None, [2]),
        ("decimal(9, 2)", ["9", "10", "2.5"], 3.5, None, [1, 2]),
        ("varchar(9)", ["a", "B", "c'", "é", "a "], "a", None, [1, 3, 4, 5]),
        ("enum('b', 'a')", ["a", "b"], "aa", None, [2]),
        ("time", ["99:00:00", "100:00:00"], "2", None, [1]),
    ],
)  # fmt: skip
def test_a_cursor_is_compared_as_the_engine_compares(
    run: Run,
    source: Callable[..., DatabaseSource],
    kind: str,
    values: list[str],
    since: Any,
    until: Any,
    expected: list[int],
) -> None:
    run(f"CREATE OR REPLACE TABLE cursors (id int, c {kind} NULL) CHARACTER SET utf8mb4")
    for number, value in enumerate(values, 1):
        run("INSERT INTO cursors VALUES (%s, %s)", number, value)
    window = Window(cursor="c", since=since, until=until, batch_rows=1)
    assert sorted(row[0] for row in rows(list(read_database(source(table="cursors"), window)))) == expected
    [chunk] = read_database(source(table="cursors"), Window(cursor="c"))
    assert chunk.frame["c"].is_sorted()


def test_names_and_values_are_no_statements(run: Run, source: Callable[..., DatabaseSource]) -> None:
    run("CREATE TABLE `t``; DROP TABLE x; --` (`a'\"%%s:b` text)".replace("%%", "%"))
    run("INSERT INTO `t``; DROP TABLE x; --` VALUES ('x\\\\'';--')")
    window = Window(cursor="a'\"%s:b", since="\\'; DROP TABLE x; --")
    assert rows(list(read_database(source(table="t`; DROP TABLE x; --"), window))) == [("x\\';--",)]
    query = "SELECT ':a' AS a, '10%' AS `b:%`, '\\\\:c' AS c -- :no"
    assert rows(list(read_database(source(query=query), Window(cursor="b:%", since="10%")))) == [
        (":a", "10%", "\\:c")
    ]


def failure(asked: DatabaseSource) -> str:
    with pytest.raises(PenstockError) as caught:
        list(read_database(asked, Window()))
    told = "".join(traceback.format_exception(caught.value))
    for secret in (PASSWORD, quote(PASSWORD, safe=""), "sesame"):
        assert secret not in told
    return str(caught.value)


def test_mistakes_are_named(
    run: Run, source: Callable[..., DatabaseSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("CREATE TABLE shop_orders (id int)")
    address = source(table="x").url
    cases = {
        "there is no table 'shop_order'\n  → did you mean 'shop_orders'?": source(table="shop_order"),
        "there is no column 'ids'": source(table="shop_orders", columns=("ids",)),
        "You have an error in your SQL syntax": source(query="DELETE FROM shop_orders"),
        "Duplicate column name 'a'": source(query="SELECT 1 AS a, 2 AS a"),
        "Unknown database 'nowhere'": source(url=address.removesuffix("penstock") + "nowhere", table="x"),
        "Connection refused": source(url="mysql://u:sesame@127.0.0.1:1/x", table="x"),
    }
    for says, asked in cases.items():
        assert says in failure(asked)
    monkeypatch.setenv("SHOP_PASSWORD", "p@ss:w/rd?sesame#%41")
    assert "Access denied for user" in failure(source(table="x"))


def test_a_connection_lost_in_the_middle_is_told(run: Run, source: Callable[..., DatabaseSource]) -> None:
    reading = read_database(
        source(query="SELECT seq, repeat('x', 1000) AS x FROM seq_1_to_300000"), Window(batch_rows=1000)
    )
    next(reading)
    others = "SELECT id FROM information_schema.processlist WHERE info LIKE '%seq_1_to_300000%' AND id <> connection_id()"
    [(victim,)] = run(others)
    run(f"KILL {victim}")
    with pytest.raises(PenstockError, match="the connection was lost while reading"):
        list(reading)


def test_a_reader_that_is_left_does_not_fetch_the_rest(
    run: Run, source: Callable[..., DatabaseSource]
) -> None:
    endless = "SELECT a.seq, repeat('x', 1000) AS x FROM seq_1_to_100000 a, seq_1_to_100000 b"
    reading = read_database(source(query=endless), Window(batch_rows=1000))
    next(reading)
    reading.close()  # type: ignore[attr-defined]
    running = "SELECT count(*) FROM information_schema.processlist WHERE info LIKE '%seq_1_to_100000%' AND id <> connection_id()"
    until(lambda: run(running) == ((0,),), "the server")
