from __future__ import annotations

import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import polars as pl
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.config.loading import DatabaseSource
from penstock.errors import PenstockError
from penstock.sources import database_sqlalchemy
from penstock.sources.chunks import Chunk, Window
from penstock.sources.database import read_database
from penstock.sources.database_interface import ROWS, Select
from penstock.sources.database_postgres import Postgres
from tests.servers.postgres import PASSWORD, postgres
from tests.servers.programs import until

Server = dict[str, Any]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    # Whatever the server writes text like.
    with postgres("timezone=Asia/Tokyo", "datestyle=German", "intervalstyle=postgres_verbose") as started:
        yield started


@pytest.fixture(scope="module")
def base(server: Server) -> Iterator[psycopg.Connection]:
    with psycopg.connect(**server, autocommit=True) as connection:
        yield connection


@pytest.fixture
def source(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., DatabaseSource]:
    monkeypatch.setenv("SHOP_PASSWORD", PASSWORD)
    address = f"postgresql://penstock:${{secret:SHOP_PASSWORD}}@127.0.0.1:{server['port']}/postgres"

    def made(url: str = address, **more: Any) -> DatabaseSource:
        return DatabaseSource(kind="database", url=url, **more)

    return made


def table(base: psycopg.Connection, columns: str) -> str:
    name = f"t{uuid.uuid4().hex[:12]}"
    base.execute(f"CREATE TABLE {name} ({columns})")
    return name


def rows(chunks: list[Chunk]) -> list[tuple[Any, ...]]:
    return [row for chunk in chunks for row in chunk.frame.rows()]


# Type, value, and what a chunk has of it.
TYPES = [
    ("smallint", "-32768", -32768),
    ("bigint", "9223372036854775807", 2**63 - 1),
    ("oid", "4294967295", 2**32 - 1),
    ("real", "1.5", 1.5),
    ("double precision", "'-Infinity'", float("-inf")),
    ("boolean", "true", True),
    ("numeric", "123456789012345678901234567890123456789012345.0000000001", "123456789012345678901234567890123456789012345.0000000001"),
    ("numeric", "'NaN'", "NaN"),
    ("numeric(38, 10)", "1234567890123456789012345678.0123456789", Decimal("1234567890123456789012345678.0123456789")),
    ("numeric(6, 2)", "-0.10", Decimal("-0.10")),
    ("numeric(6, 2)", "'NaN'", "NaN"),
    ("numeric(3, -2)", "12345", "12300"),
    ("numeric(2, 5)", "0.00012", "0.00012"),
    ("money", "12.34", "12.34"),
    ("text", "E'\\u00e4\\n'''", "ä\n'"),
    ("char(3)", "'a'", "a  "),
    ('"char"', "'a'", "a"),
    ("mood", "'sad'", "sad"),
    ("positive", "7", 7),
    ("date", "'2024-02-29'", date(2024, 2, 29)),
    ("date", "'infinity'", "infinity"),
    ("date", "'-infinity'", "-infinity"),
    ("date", "'0044-03-15 BC'", "-0043-03-15"),
    ("date", "'5874897-12-31'", "5874897-12-31"),
    ("timestamp", "'2024-02-29 12:00:00.123456'", datetime(2024, 2, 29, 12, 0, 0, 123456)),
    ("timestamp", "'infinity'", "infinity"),
    ("timestamp", "'294276-12-31'", "294276-12-31T00:00:00"),
    ("timestamptz", "'2024-02-29 12:00:00+02'", datetime(2024, 2, 29, 10, tzinfo=UTC)),
    ("timestamptz", "'-infinity'", "-infinity"),
    ("time", "'24:00:00'", "24:00:00"),
    ("timetz", "'12:34:56.5+02'", "12:34:56.5+02"),
    ("interval", "'1 month 2 days 3 hours'", "P1M2DT3H"),
    ("uuid", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("json", "'{\"a\":  1}'", '{"a":  1}'),
    ("jsonb", "'{\"a\":  1e2}'", '{"a": 100}'),
    ("int[]", "'{{1,2},{3,null}}'", "[[1,2],[3,null]]"),
    ("numeric[]", "'{1.50}'", "[1.50]"),
    ("timestamptz[]", "'{2024-02-29 12:00:00+02}'", '["2024-02-29T10:00:00+00:00"]'),
    ("pair", "row(1, 'x')", '{"a":1,"b":"x"}'),
    ("bytea", "'\\xdeadbeef'", b"\xde\xad\xbe\xef"),
    ("inet", "'10.0.0.1/8'", "10.0.0.1/8"),
    ("int4range", "'[1,5)'", "[1,5)"),
    ("bit(3)", "b'101'", "101"),
    ("xml", "'<a/>'", "<a/>"),
    ("tsvector", "'a b'", "'a' 'b'"),
    ("point", "point(1, 2)", "(1,2)"),
]  # fmt: skip


def test_every_type_comes_back_as_what_it_was(
    base: psycopg.Connection, source: Callable[..., DatabaseSource]
) -> None:
    base.execute("CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TYPE pair AS (a int, b text)")
    base.execute("CREATE DOMAIN positive AS int CHECK (value > 0)")
    name = table(base, ", ".join(f"c{number} {kind}" for number, (kind, _, _) in enumerate(TYPES)))
    base.execute(f"INSERT INTO {name} VALUES ({', '.join(value for _, value, _ in TYPES)})")
    base.execute(f"INSERT INTO {name} (c0) VALUES (NULL)")
    [chunk] = read_database(source(table=name), Window())
    found = chunk.frame.row(0)
    assert list(zip(TYPES, found, strict=True)) == [(entry, entry[2]) for entry in TYPES]
    assert set(chunk.frame.row(1)) == {None}
    base.execute(f"DELETE FROM {name} WHERE c0 IS NOT NULL")
    [nulls] = read_database(source(table=name), Window())
    assert set(nulls.frame.row(0)) == {None}
    assert not any(kind.is_nested() for kind in nulls.frame.dtypes)


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
MOMENTS = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(
        st.tuples(
            st.none() | st.integers(-(2**63), 2**63 - 1),
            st.none() | st.floats(),
            st.none() | TEXT,
            st.none() | st.decimals(-(10**27), 10**27, places=8),
            st.none()
            | st.decimals(allow_nan=False, allow_infinity=False).filter(lambda d: -200 < d.adjusted() < 200),
            st.none() | st.dates(),
            st.none() | MOMENTS,
            st.none() | MOMENTS.map(lambda moment: moment.replace(tzinfo=UTC)),
            st.none() | st.binary(),
            st.none() | st.booleans(),
        ),
        max_size=12,
    ),
    batch=st.integers(1, 6),
)
def test_every_value_comes_back(
    base: psycopg.Connection, source: Callable[..., DatabaseSource], values: list[tuple[Any, ...]], batch: int
) -> None:
    base.execute(
        "DROP TABLE IF EXISTS v; CREATE TABLE v (i bigint, f double precision, t text, n numeric(38, 8), u numeric,"
        " d date, m timestamp, z timestamptz, b bytea, o boolean)"
    )
    with base.cursor() as cursor:
        cursor.executemany("INSERT INTO v VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)", values)
    found = rows(list(read_database(source(table="v"), Window(batch_rows=batch))))
    assert len(found) == len(values)
    for got, (i, f, t, n, u, d, m, z, b, o) in zip(found, values, strict=True):
        assert (got[0], got[2], got[3], got[5], got[6], got[7], got[8], got[9]) == (i, t, n, d, m, z, b, o)
        assert got[1] == f or (got[1] != got[1] and f is not None and f != f)
        assert (None if got[4] is None else Decimal(got[4])) == u


# --- one moment -------------------------------------------------------------------------------------


@pytest.mark.parametrize("partitions", [1, 3])
def test_what_another_writes_meanwhile_is_not_seen(
    base: psycopg.Connection, source: Callable[..., DatabaseSource], partitions: int
) -> None:
    name = table(base, "id int, c int, filler text")
    base.execute(
        f"INSERT INTO {name} SELECT g, nullif(g, 7), repeat('x', 1000) FROM generate_series(1, 20000) g"
    )
    asked = source(table=name, partition="id", partitions=partitions)
    reading = read_database(asked, Window(cursor="c", batch_rows=100))
    chunks = [next(reading)]
    base.execute(f"DELETE FROM {name} WHERE id % 2 = 0")
    base.execute(f"INSERT INTO {name} VALUES (0, 0, ''), (99999, NULL, '')")
    base.execute(f"UPDATE {name} SET c = NULL WHERE id < 100")
    chunks.extend(reading)
    assert sorted(row[0] for row in rows(chunks)) == [number for number in range(1, 20001) if number != 7]
    assert sum(chunk.broken.height for chunk in chunks) == 1
    assert [chunk.boundary for chunk in chunks] == [partitions == 1] * (len(chunks) - 1) + [True]


def test_twins_see_what_the_first_saw(base: psycopg.Connection, server: Server) -> None:
    name = table(base, "id int")
    base.execute(f"INSERT INTO {name} VALUES (1), (2)")
    first = Postgres(
        f"postgresql://penstock:{quote(PASSWORD, safe='')}@127.0.0.1:{server['port']}/postgres", "here"
    )
    [found] = first.fields(f"{name} {ROWS}", None)
    base.execute(f"DELETE FROM {name}")
    with closing(first), first.twins(2) as twins:
        for one in (first, *twins):
            [frame] = one.batches(Select(f"SELECT id FROM {name} {ROWS}", [found]), 10)
            assert frame["id"].to_list() == [1, 2]


def test_what_remains_is_the_servers_estimate(
    base: psycopg.Connection, source: Callable[..., DatabaseSource]
) -> None:
    name = table(base, "id int")
    base.execute(f"INSERT INTO {name} SELECT generate_series(1, 10)")
    assert {chunk.remaining for chunk in read_database(source(table=name), Window(batch_rows=4))} == {None}
    base.execute(f"ANALYZE {name}")
    told = [chunk.remaining for chunk in read_database(source(table=name), Window(batch_rows=4))]
    assert told == [6, 2, 0]
    assert {chunk.remaining for chunk in read_database(source(table=name), Window(cursor="id", since=5))} == {
        None
    }


@pytest.mark.parametrize("column", ["id", "day", "at"])
def test_partitions_divide_and_lose_nothing(
    base: psycopg.Connection, source: Callable[..., DatabaseSource], column: str
) -> None:
    name = table(base, "id int, day date, at timestamptz")
    base.execute(
        f"INSERT INTO {name} SELECT nullif(g, 11), date '2024-01-01' + g / 7, timestamptz '2024-01-01' + g * interval '7 h'"
        " FROM generate_series(-50, 400) g"
    )
    base.execute(
        f"INSERT INTO {name} VALUES (NULL, 'infinity', '-infinity'), (2147483647, NULL, NULL), (1, '0044-03-15 BC', '9999-12-31')"
    )
    columns = ("id",)
    whole = rows(list(read_database(source(table=name, columns=columns), Window())))
    asked = source(table=name, columns=columns, partition=column, partitions=4)
    parted = list(read_database(asked, Window(batch_rows=20)))
    assert sorted(map(str, rows(parted))) == sorted(map(str, whole))
    assert rows(list(read_database(asked, Window(batch_rows=20)))) == rows(parted)
    assert [chunk.position for chunk in parted] == [
        sum(c.frame.height for c in parted[:n]) for n in range(len(parted))
    ]


def test_partitions_of_nothing_or_of_one_value(
    base: psycopg.Connection, source: Callable[..., DatabaseSource]
) -> None:
    name = table(base, "id int")
    asked = source(table=name, partition="id", partitions=4)
    assert rows(list(read_database(asked, Window()))) == []
    base.execute(f"INSERT INTO {name} VALUES (3), (3), (NULL)")
    assert sorted(map(str, rows(list(read_database(asked, Window()))))) == ["(3,)", "(3,)", "(None,)"]


# --- cursors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "values", "since", "until", "expected"),
    [
        ("timestamp", ["2024-01-01 10:00", "2024-01-01 12:00", "2024-01-02 00:00"], "2024-01-01T13:00:00+01:00", datetime(2024, 1, 2, tzinfo=UTC), [2]),
        ("timestamptz", ["2024-01-01 10:00+02", "2024-01-01 12:00+00"], datetime(2024, 1, 1, 8, 0, 1, tzinfo=UTC), None, [2]),
        ("date", ["2024-01-01", "2024-01-02", "2024-01-03"], date(2024, 1, 2), datetime(2024, 1, 2, 12, tzinfo=UTC), [2]),
        ("integer", ["1", "2", "3"], 2, 3, [2]),
        ("numeric", ["9", "10", "2.5"], 3.5, None, [1, 2]),
        ("text", ["a", "B", "c'", "é"], "a", None, [1, 3, 4]),  # an English collation has B after a
        ("uuid", ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "00000000-0000-0000-0000-000000000000"], "1", None, [1]),
        ("size", ["small", "large"], "m", None, [1]),  # by its text, though small is the lesser size
    ],
)  # fmt: skip
def test_a_cursor_is_compared_as_the_engine_compares(
    base: psycopg.Connection,
    source: Callable[..., DatabaseSource],
    kind: str,
    values: list[str],
    since: Any,
    until: Any,
    expected: list[int],
) -> None:
    base.execute("DROP TYPE IF EXISTS size CASCADE; CREATE TYPE size AS ENUM ('small', 'large')")
    collation = ' COLLATE "en-x-icu"' if kind == "text" else ""
    name = table(base, f"id int, c {kind}{collation}")
    for number, value in enumerate(values, 1):
        base.execute(f"INSERT INTO {name} VALUES (%s, %s::{kind})", (number, value))
    chunks = list(
        read_database(source(table=name), Window(cursor="c", since=since, until=until, batch_rows=1))
    )
    assert sorted(row[0] for row in rows(chunks)) == expected
    everything = list(read_database(source(table=name), Window(cursor="c")))
    column = everything[0].frame["c"]
    as_number = column.cast(pl.Float64) if kind == "numeric" else column
    assert as_number.is_sorted()


def test_names_and_values_are_no_statements(
    base: psycopg.Connection, source: Callable[..., DatabaseSource]
) -> None:
    schema, name, column = 'my.schema"', 't"; DROP TABLE x; --', "a'\"%s{}:b"
    quoted = [part.replace('"', '""') for part in (schema, name, column)]
    base.execute(f'CREATE SCHEMA "{quoted[0]}"'.encode())
    base.execute(f'CREATE TABLE "{quoted[0]}"."{quoted[1]}" ("{quoted[2]}" text)'.encode())
    base.execute(f"INSERT INTO \"{quoted[0]}\".\"{quoted[1]}\" VALUES ('x'';--')".encode())
    asked = source(table=f'"{quoted[0]}"."{quoted[1]}"', columns=(column,))
    window = Window(cursor=column, since="'; DROP TABLE x; --\\")
    assert rows(list(read_database(asked, window))) == [("x';--",)]


# --- mistakes ---------------------------------------------------------------------------------------


def failure(asked: DatabaseSource, window: Window | None = None) -> str:
    """What a user reads, and what a log would have."""
    with pytest.raises(PenstockError) as caught:
        list(read_database(asked, window or Window()))
    told = "".join(traceback.format_exception(caught.value))
    for secret in (PASSWORD, quote(PASSWORD, safe=""), "sesame"):
        assert secret not in told
    return str(caught.value)


def test_mistakes_are_named(base: psycopg.Connection, source: Callable[..., DatabaseSource]) -> None:
    base.execute("CREATE TABLE shop_orders (id int); CREATE SEQUENCE counter")
    address = source(table="x").url
    cases = {
        "did you mean 'shop_orders'?": source(table="shop_order"),
        "there is no table 'SHOP_ORDERS'\n  → did you mean 'shop_orders'?": source(table="SHOP_ORDERS"),
        "there is no column 'ids'": source(table="shop_orders", columns=("ids",)),
        'syntax error at or near "SELEKT"': source(query="SELEKT 1"),
        "division by zero": source(query="SELECT 1 / (id - id) AS x FROM generate_series(1, 9) id"),
        "two columns are called 'a'": source(query="SELECT 1 AS a, 2 AS a"),
        "no columns come of it\n  → a source's query is a SELECT": source(query="DROP TABLE shop_orders"),
        "read-only transaction\n  → a source is only read": source(query="SELECT nextval('counter') AS x"),
        'database "nowhere" does not exist': source(url=address.replace("/postgres", "/nowhere"), table="x"),
        "Connection refused": source(url=address.replace("@127.0.0.1:", "@127.0.0.1:1/"), table="x"),
    }
    for says, asked in cases.items():
        assert says in failure(asked)
    assert "multiple commands" in failure(source(query="SELECT 1 AS a; DROP TABLE shop_orders"))


def test_a_wrong_password_is_told_and_not_shown(
    source: Callable[..., DatabaseSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    for wrong in ("p@ss:w/rd?sesame#%41", "sesame' host=elsewhere", "ses ame\\sesame"):
        monkeypatch.setenv("SHOP_PASSWORD", wrong)
        told = failure(source(table="x"))
        assert "password authentication failed" in told
        assert wrong not in told


def test_no_part_of_an_address_that_is_secret_is_shown(
    source: Callable[..., DatabaseSource], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_DATABASE", "hush-hush")
    address = source(table="x").url
    told = failure(source(url=address.removesuffix("postgres") + "${secret:SHOP_DATABASE}", table="x"))
    assert "does not exist" in told
    assert "hush-hush" not in told
    monkeypatch.setenv("SHOP_HOST", "127.0.0.1")
    elsewhere = address.replace("127.0.0.1", "${secret:SHOP_HOST}")
    [chunk] = read_database(source(url=elsewhere, query="SELECT 1 AS a"), Window())
    assert chunk.source == f"postgresql://•••:{server['port']}/postgres query"


def test_a_connection_lost_in_the_middle_is_told(
    base: psycopg.Connection, source: Callable[..., DatabaseSource]
) -> None:
    reading = read_database(
        source(query="SELECT g, repeat('x', 1000) AS x FROM generate_series(1, 500000) g"),
        Window(batch_rows=1000),
    )
    next(reading)
    base.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'COPY%' AND pid <> pg_backend_pid()"
    )
    with pytest.raises(PenstockError, match="the connection was lost while reading"):
        list(reading)


@pytest.mark.parametrize("partitions", [1, 3])
def test_a_reader_that_is_left_lets_go_of_the_server(
    base: psycopg.Connection, source: Callable[..., DatabaseSource], partitions: int
) -> None:
    asked = source(
        query="SELECT g, repeat('x', 1000) AS x FROM generate_series(1, 300000) g",
        partition="g",
        partitions=partitions,
    )
    reading = read_database(asked, Window(batch_rows=1000))
    next(reading)
    reading.close()  # type: ignore[attr-defined]
    others = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    until(lambda: base.execute(others).fetchone() == (0,), "the server")


# --- what else SQLAlchemy can reach -----------------------------------------------------------------


def test_any_dialect_of_sqlalchemy_streams(base: psycopg.Connection, server: Server) -> None:
    """Seen on PostgreSQL by psycopg, as if it were a database that nobody has thought of."""
    name = table(base, "id int, n numeric, d date, x text")
    base.execute(
        f"INSERT INTO {name} SELECT g, g / 10.0, date '2024-01-01' + g, ':x%' || g FROM generate_series(1, 9) g"
    )
    url = f"postgresql+psycopg://penstock:{quote(PASSWORD, safe='')}@127.0.0.1:{server['port']}/postgres"
    database = database_sqlalchemy.Server(url, "somewhere")
    fields = database.fields(f'"{name}" {ROWS}', None)
    select = Select(
        f"SELECT * FROM {name} {ROWS} WHERE x LIKE ':x%' AND id > {database.bound(3, fields[0], parameters := [])}",
        fields,
        parameters,
    )
    reading = database.batches(select, 2)
    frames = [next(reading)]
    # What streams has a cursor on the server.
    assert base.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%FETCH%FROM%' AND pid <> pg_backend_pid()"
    ).fetchone() == (1,)
    frames.extend(reading)
    assert [frame.height for frame in frames] == [2, 2, 2]
    assert frames[0].row(0) == (4, Decimal("0.4"), date(2024, 1, 5), ":x%4")
    database.close()
