# ruff: noqa: S608  (names are quoted, values bound or literals)
"""Tables of databases and queries, in record batches: memory does not grow with the rows.

What is read is what the database held at one moment: one read-only transaction, which further connections
share where that can be (PostgreSQL).

With a cursor the database filters and sorts by it, hence every chunk is a boundary: the largest cursor so far
is all that the next load needs. A row whose cursor is missing is above no bound and would never be read; such
rows are in the last chunks of every load, as broken ones. Without a cursor, or with several partitions, whose
chunks take turns, no chunk is a boundary.
"""

from __future__ import annotations

import difflib
import math
import queue
import re
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

import polars as pl
import polars.selectors as cs

from penstock import contract
from penstock.config.loading import DatabaseSource
from penstock.contract import QUARANTINE_SCHEMA
from penstock.errors import PenstockError
from penstock.sources.chunks import Chunk, Window
from penstock.sources.database_interface import ROWS, Bound, Database, Field, Select, moment, wrong
from penstock.sources.secrets import hidden, hiding, revealed

__all__ = ["read_database"]

# Frames of one part that wait for their turn.
AHEAD = 1
PATIENCE = 0.1  # seconds between looks at whether a waiting thread should end
GRACE = 1.0  # seconds until a statement is broken off whose rows nobody wants any more


def read_database(source: DatabaseSource, window: Window) -> Iterator[Chunk]:
    """Read a table or query.

    A column is text in those chunks where one of its values is none of the column's type; see
    ``database_values``. What no contract knows (time, interval, array) is text or JSON.

    Args:
        source: Where it is. Its partitions are read at once where connections can see the same moment
            (PostgreSQL); elsewhere one connection reads all.
        window: Which rows. ``resume`` is not needed: the cursor says all.

    Raises:
        PenstockError: There is no such server, table or column, the server refuses, or it is lost on the way.
    """
    with hiding(), closing(_opened(revealed(source.url, url=True))) as database:
        asked = _asked(database, source, window)
        with ExitStack() as stack:
            parts = [(database, _select(asked, window))]
            if source.partitions > 1 and asked.partition is not None:
                parts = (
                    _parted(asked, window, stack.enter_context(database.twins(source.partitions))) or parts
                )
            frames = stack.enter_context(closing(_by_turns(parts, window.batch_rows)))
            boundary = asked.cursor is not None and len(parts) == 1
            position = yield from _good(asked, frames, boundary=boundary)
        if asked.cursor is not None:
            yield from _without_cursor(asked, asked.cursor, window.batch_rows, position)


def _opened(url: str) -> Database:
    scheme, found, rest = url.partition("://")
    kind, _, _ = scheme.partition("+")
    if not found:
        raise PenstockError(
            "source.url: it is no address",
            hint="postgresql://user:${secret:NAME}@host:5432/database, mysql://…, sqlite:///path or duckdb:///path",
        )
    if kind in {"sqlite", "duckdb"}:
        path = rest.removeprefix("/").partition("?")[0]
        if not path or path == ":memory:":
            raise PenstockError(f"source.url: {kind} needs a file", hint=f"{kind}:///path of the database")
        name = hidden(f"{kind}:///{path}")
        if kind == "sqlite":
            from penstock.sources.database_sqlite import SQLite

            return SQLite(path, name)
        from penstock.sources.database_duckdb import DuckDB

        return DuckDB(path, name)
    place = rest.partition("?")[0].rpartition("@")[2]
    name = hidden(f"{kind}://{place}")
    if kind in {"postgresql", "postgres"}:
        from penstock.sources.database_postgres import Postgres

        return Postgres(f"postgresql://{rest}", name)
    from penstock.sources.database_sqlalchemy import Server

    return Server(url, name)


# --- what is asked for ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Asked:
    """A source whose columns are known.

    Attributes:
        database: An open connection.
        relation: The table's name, or the query in parentheses, called ROWS.
        label: What the rows come from, for people.
        fields: The columns to read.
        cursor: That of the window.
        partition: What to divide parallel reads by.
        rows: About how many there are; None if it is not known.
    """

    database: Database
    relation: str
    label: str
    fields: Sequence[Field]
    cursor: Field | None
    partition: Field | None
    rows: int | None


def _asked(database: Database, source: DatabaseSource, window: Window) -> _Asked:
    label = f"{database.name} {source.table or 'query'}"
    rows = None
    if source.table is not None:
        parts = _parts(source.table)
        relation = f"{'.'.join(map(database.quoted, parts))} {ROWS}"
        fields = _fields_of_table(database, source.table, relation)
        rows = None if window.cursor else database.estimate(parts)
    else:
        assert source.query is not None
        # On lines of its own: its last one may be a comment.
        relation = f"(\n{source.query.strip().rstrip(';')}\n) {ROWS}"
        fields = database.fields(relation, source.query.strip().rstrip(";"))
    if not fields:
        raise wrong(label, "no columns come of it", "a source's query is a SELECT")
    names = [found.name for found in fields]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise wrong(label, f"two columns are called {twice[0]!r}", "name them in the query: SELECT … AS …")
    cursor = None if window.cursor is None else _named(fields, window.cursor, "incremental.cursor", label)
    if cursor is not None and cursor.kind == "binary":
        raise PenstockError(
            f"incremental.cursor: the column {cursor.name!r} of {label} is {cursor.type}",
            hint="go by a number, a text or a time",
        )
    partition = None
    if source.partition is not None:
        partition = _named(fields, source.partition, "source.partition", label)
        if partition.kind not in {"integer", "date", "datetime", "zoned"}:
            raise PenstockError(
                f"source.partition: the column {source.partition!r} of {label} is {partition.type or partition.kind}",
                hint="divide by an integer, a date or a date-time",
            )
    chosen = [_named(fields, name, "source.columns", label) for name in source.columns] or fields
    if cursor is not None and cursor not in chosen:
        raise PenstockError(
            f"source.columns: the cursor {cursor.name!r} is not among them", hint=f"add {cursor.name!r}"
        )
    return _Asked(database, relation, label, chosen, cursor, partition, rows)


def _parts(table: str) -> list[str]:
    """schema.name, either of which may be in double quotes."""
    parts = re.findall(r'"((?:[^"]|"")+)"(?:\.|$)|([^.]+)(?:\.|$)', table)
    return [quoted.replace('""', '"') or plain for quoted, plain in parts]


def _fields_of_table(database: Database, table: str, relation: str) -> list[Field]:
    try:
        return database.fields(relation, None)
    except PenstockError as error:
        try:
            tables = sorted(database.tables())
        except PenstockError:
            raise error from None  # the first says more
        if table in tables:
            raise
        name = table.rpartition(".")[2].lower()
        near = [other for other in tables if other.rpartition(".")[2].lower() == name]
        near += difflib.get_close_matches(table, tables, n=1)
        some = ", ".join(tables[:12]) or "none that this user may read"
        raise wrong(
            database.name,
            f"there is no table {table!r}",
            f"did you mean {near[0]!r}?" if near else f"there are: {some}",
        ) from error


def _named(fields: Sequence[Field], name: str, key: str, label: str) -> Field:
    for found in fields:
        if found.name == name:
            return found
    names = [found.name for found in fields]
    near = difflib.get_close_matches(name, names, n=1)
    raise PenstockError(
        f"{key}: there is no column {name!r} in {label}",
        hint=f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names)}",
    )


# --- statements -------------------------------------------------------------------------------------


def _select(asked: _Asked, window: Window, extra: str | None = None) -> Select:
    """The rows of the window for which ``extra`` is true too, by their cursor."""
    database, cursor = asked.database, asked.cursor
    parameters: list[Bound] = []
    conditions = [] if extra is None else [extra]
    order = ""
    if cursor is not None:
        conditions.append(f"{database.column(cursor)} IS NOT NULL")
        bounds = [(">" if window.exclusive else ">=", window.since), ("<", window.until)]
        given = [_fitting(bound, cursor) for _, bound in bounds if bound is not None]
        for sign, bound in bounds:
            if bound is not None:
                conditions.append(database.compared(cursor, sign, _fitting(bound, cursor), parameters))
        order = f" ORDER BY {database.sorted_by(cursor, given)}"
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return Select(f"SELECT {_list(asked)} FROM {asked.relation}{where}{order}", asked.fields, parameters)


def _list(asked: _Asked) -> str:
    columns = []
    for found in asked.fields:
        value = found.wire.replace("{}", asked.database.column(found))
        columns.append(f"{value} AS {asked.database.quoted(found.name)}")
    return ", ".join(columns)


def _fitting(bound: Bound, cursor: Field) -> Bound:
    """A bound in the terms of its column.

    Raises:
        PenstockError: It has none.
    """
    what = f"incremental.cursor: the column {cursor.name!r}"
    if cursor.kind in {"date", "datetime", "zoned"}:
        return moment(bound, what)
    if cursor.kind in {"integer", "number"} and not isinstance(bound, int | float):
        raise PenstockError(
            f"{what} is {cursor.type or cursor.kind}; {bound!r} is none", hint="give it as a number"
        )
    if isinstance(bound, float) and not math.isfinite(bound):
        raise PenstockError(f"{what} cannot be compared with {bound!r}", hint="give a number")
    if cursor.kind == "text" and not isinstance(bound, str):
        raise PenstockError(
            f"{what} is text in the database; {bound!r} is none",
            hint="cast it in a query: SELECT …, CAST(… AS timestamp) AS …",
        )
    return bound


# --- chunks -----------------------------------------------------------------------------------------


def _good(asked: _Asked, frames: Iterator[pl.DataFrame], *, boundary: bool) -> Generator[Chunk, None, int]:
    position = 0
    for frame in frames:
        done = position + frame.height
        remaining = None if asked.rows is None else max(0, asked.rows - done)
        yield Chunk(frame, asked.label, position, boundary=boundary, remaining=remaining)
        position = done
    return position


def _without_cursor(asked: _Asked, cursor: Field, rows: int, position: int) -> Iterator[Chunk]:
    """Rows that no bound finds, as broken ones."""
    condition = f"{asked.database.column(cursor)} IS NULL"
    select = Select(f"SELECT {_list(asked)} FROM {asked.relation} WHERE {condition}", asked.fields)
    with closing(asked.database.batches(select, rows)) as frames:
        for frame in frames:
            broken = frame.select(
                source=pl.lit(asked.label),
                position=pl.int_range(position, position + pl.len(), dtype=pl.Int64),
                reason=pl.lit(f"{cursor.name}: expected a value, found none"),
                row=contract.as_json(frame.with_columns(cs.binary().bin.encode("base64"))),
            )
            yield Chunk(
                frame.clear(),
                asked.label,
                position,
                broken=broken.match_to_schema(QUARANTINE_SCHEMA),
                reasons={f"{cursor.name}: missing": frame.height},
                boundary=True,
            )
            position += frame.height


# --- in other threads -------------------------------------------------------------------------------


def _parted(asked: _Asked, window: Window, twins: Sequence[Database]) -> list[tuple[Database, Select]]:
    """Who reads which range of the partition column; nobody, if there is nothing to divide."""
    assert asked.partition is not None
    found = asked.database.extremes(asked.relation, asked.partition) if twins else None
    conditions = [] if found is None else _ranges(asked, *found, len(twins))
    return [(twin, _select(asked, window, only)) for twin, only in zip(twins, conditions, strict=False)]


def _ranges(asked: _Asked, least: Bound, largest: Bound, count: int) -> list[str]:
    """Conditions that divide all rows; those without a value are in the first, and the outer ones have no end."""
    partition, database = asked.partition, asked.database
    assert partition is not None
    column = database.column(partition)
    inner: list[Bound] = []
    for number in range(1, count):
        if isinstance(least, datetime) and isinstance(largest, datetime):
            span = (largest - least) // timedelta(microseconds=1)
            edge: Bound = least + timedelta(microseconds=span * number // count)
        else:
            assert isinstance(least, int)
            assert isinstance(largest, int)
            edge = least + (largest - least + 1) * number // count
        if edge not in (least, *inner):
            inner.append(edge)
    if not inner:
        return []
    shown = [database.bound(edge, partition, []) for edge in inner]
    middle = [f"{column} >= {low} AND {column} < {high}" for low, high in pairwise(shown)]
    return [f"({column} < {shown[0]} OR {column} IS NULL)", *middle, f"{column} >= {shown[-1]}"]


_Item = pl.DataFrame | BaseException | None


def _by_turns(parts: Sequence[tuple[Database, Select]], rows: int) -> Generator[pl.DataFrame]:
    """A frame of each part in turn: the order hangs on the rows alone, and every thread has work.

    One part too is read by another thread: the next frame comes while the last is worked on.
    """
    ends = threading.Event()
    queues: list[queue.Queue[_Item]] = [queue.Queue(AHEAD) for _ in parts]

    def put(place: queue.Queue[_Item], item: _Item) -> bool:
        while not ends.is_set():
            with suppress(queue.Full):
                place.put(item, timeout=PATIENCE)
                return True
        return False

    def read(database: Database, select: Select, place: queue.Queue[_Item]) -> None:
        try:
            with closing(database.batches(select, rows)) as frames:
                for frame in frames:
                    if not put(place, frame):
                        return
            put(place, None)
        except BaseException as error:
            put(place, error)

    threads = [
        threading.Thread(target=read, args=(database, select, place), daemon=True)
        for (database, select), place in zip(parts, queues, strict=True)
    ]
    try:
        for thread in threads:
            thread.start()
        turn = list(queues)
        while turn:
            for place in list(turn):
                item = place.get()
                if isinstance(item, BaseException):
                    raise item
                if item is None:
                    turn.remove(place)
                else:
                    yield item
    finally:
        ends.set()
        for (database, _), place, thread in zip(parts, queues, threads, strict=True):
            with suppress(queue.Empty):
                place.get_nowait()  # it may wait for the place
            thread.join(GRACE)
            if thread.is_alive():
                database.cancel()
                thread.join()
