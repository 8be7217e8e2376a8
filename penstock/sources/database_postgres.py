# ruff: noqa: S608  (names are quoted, values bound or literals)
"""PostgreSQL, through ADBC: rows come as binary COPY and go into Arrow without becoming Python's objects.

What ADBC has no exact type for is cast to text by the server. As it is, it would give an oid as a signed number,
money in cents, an array of arrays as one list, the time 24:00 as 0:00, and a range or an address as its bytes.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import polars as pl

from penstock.sources.database_interface import (
    Bound,
    Database,
    Field,
    Kind,
    Select,
    described,
    literal,
    lost,
    moment,
    regrouped,
    unreachable,
    wrong,
)
from penstock.sources.database_values import DIGITS, as_found, from_arrow

__all__ = ["Postgres"]

# What arrives as it is.
NATIVE: dict[str, Kind] = {
    "bool": "boolean",
    "int2": "integer",
    "int4": "integer",
    "int8": "integer",
    "float4": "number",
    "float8": "number",
    "text": "text",
    "varchar": "text",
    "bpchar": "text",
    "name": "text",
    "bytea": "binary",
    "date": "date",
    "timestamp": "datetime",
    "timestamptz": "zoned",
}
# How text is written that the server makes: the same wherever it runs.
SETTINGS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "iso_8601",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
}
BATCH_BYTES = 4 << 20  # of one of the driver's batches; a chunk is made of several
CONNECTION_GONE = ("08", "57P")  # SQLSTATE begins so when the server, or the way to it, is gone


class Postgres(Database):
    """One connection in one read-only transaction, repeatable read."""

    def __init__(self, url: str, name: str, snapshot: str | None = None) -> None:
        import adbc_driver_manager
        import adbc_driver_postgresql.dbapi as driver
        import pyarrow as pa

        self.name = name
        self._url = url
        self._error = adbc_driver_manager.Error
        # In the middle of a result, Arrow speaks for the driver.
        self._errors = (adbc_driver_manager.Error, pa.ArrowException, OSError)
        self._reading: Any = None
        try:
            self._connection = driver.connect(url)
        except self._error as error:
            raise unreachable(name, _said(error)) from error
        try:
            self._run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            if snapshot is not None:
                self._run(f"SET TRANSACTION SNAPSHOT {literal(snapshot)}")
            configs = (
                f"set_config({literal(key)}, {literal(value)}, true)" for key, value in SETTINGS.items()
            )
            self._run(f"SELECT {', '.join(configs)}")
        except BaseException:
            self.close()
            raise

    def _run(self, sql: str) -> list[tuple[Any, ...]]:
        with self._telling(), self._connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            said = _said(error)
            state = getattr(error, "sqlstate", None) or ("25006" if "read-only" in said else "")
            gone = state.startswith(CONNECTION_GONE) or re.search(
                r"server closed the connection|no connection to the server|connection (reset|refused)|terminating connection",
                str(error),
                re.IGNORECASE,
            )
            raise lost(self.name, said) if gone else wrong(self.name, said, _hint(state)) from error

    def fields(self, relation: str, query: str | None) -> list[Field]:
        with self._telling(), self._connection.cursor() as cursor:
            schema = cursor.adbc_execute_schema(query or f"SELECT * FROM {relation}")
        return [_field(found) for found in schema]

    def sorted_by(self, found: Field, bounds: Any) -> str:  # noqa: ARG002
        # What is text in the chunk is compared as text, and as Python does: by code points.
        column = self.column(found)
        if found.kind in {"text", "other"}:
            return f'({found.wire.replace("{}", column)}) COLLATE "C"'
        return f"{column}::numeric" if found.type == "money" else column

    def bound(self, bound: Bound, found: Field, parameters: list[Bound]) -> str:  # noqa: ARG002
        # Parameters would keep the driver from COPY. A date is compared with a moment: that within a day counts.
        if found.kind == "zoned":
            return f"{literal(moment(bound, found.name))[:-1]}+00'::timestamptz"
        if found.kind in {"date", "datetime"}:
            return f"{literal(moment(bound, found.name))}::timestamp"
        return literal(bound)

    def batches(self, select: Select, rows: int) -> Generator[pl.DataFrame]:
        yield from regrouped(self._batches(select), rows)

    def _batches(self, select: Select) -> Iterator[pl.DataFrame]:
        targets = [found.target for found in select.fields]
        with self._telling(), self._connection.cursor() as cursor:
            self._reading = cursor
            try:
                cursor.adbc_statement.set_options(
                    **{"adbc.postgresql.batch_size_hint_bytes": str(BATCH_BYTES)}
                )
                cursor.execute(select.sql)
                for batch in cursor.fetch_record_batch():
                    yield as_found(from_arrow(batch), targets)
            finally:
                self._reading = None

    def tables(self) -> list[str]:
        with self._telling():
            self._connection.rollback()  # an error has ended the transaction
        rows = self._run(
            "SELECT CASE WHEN pg_table_is_visible(c.oid) THEN relname ELSE nspname || '.' || relname END"
            " FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
            " WHERE relkind IN ('r', 'v', 'm', 'f', 'p') AND nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')"
        )
        return [str(row[0]) for row in rows]

    def estimate(self, parts: Sequence[str]) -> int | None:
        relation = ".".join(map(self.quoted, parts))
        rows = self._run(
            f"SELECT reltuples::int8 FROM pg_class WHERE relkind IN ('r', 'm') AND oid = to_regclass({literal(relation)})"
        )
        return int(rows[0][0]) if rows and rows[0][0] >= 0 else None

    def extremes(self, relation: str, found: Field) -> tuple[Bound, Bound] | None:
        column = self.column(found)
        finite = "true" if found.kind == "integer" else f"isfinite({column})"
        # Before Christ or after 9999 is no bound that matters: the outer ranges are open.
        shown = (
            column if found.kind == "integer" else f"greatest(least({column}, '9999-12-31'), '0001-01-01')"
        )
        rows = self._run(f"SELECT min({shown})::text, max({shown})::text FROM {relation} WHERE {finite}")
        least, largest = rows[0]
        if least is None:
            return None
        if found.kind == "integer":
            return int(least), int(largest)
        return moment(str(least), found.name), moment(str(largest), found.name)

    @contextmanager
    def twins(self, count: int) -> Iterator[list[Database]]:
        snapshot = str(self._run("SELECT pg_export_snapshot()")[0][0])
        with ExitStack() as stack:
            twins: list[Database] = []
            for _ in range(count):
                twin = Postgres(self._url, self.name, snapshot)
                stack.callback(twin.close)
                twins.append(twin)
            yield twins

    def cancel(self) -> None:
        cursor = self._reading
        if cursor is not None:
            with suppress(self._error, AttributeError, RuntimeError):
                cursor.adbc_cancel()

    def close(self) -> None:
        with suppress(self._error):
            self._connection.close()


def _field(found: Any) -> Field:
    import pyarrow as pa

    metadata = {key.decode(): value.decode() for key, value in (found.metadata or {}).items()}
    word = metadata.get("POSTGRESQL:type", "")
    if word in NATIVE:
        return Field(found.name, NATIVE[word], word)
    if word == "numeric":
        return Field(found.name, "number", word, "{}::text", _decimal(metadata.get("POSTGRESQL:typmod")))
    if word == "oid":
        return Field(found.name, "integer", word, "{}::int8")
    if word == "money":
        return Field(found.name, "number", word, "{}::numeric::text")
    if pa.types.is_list(found.type) or pa.types.is_struct(found.type):
        return Field(found.name, "other", word, "to_json({})::text")
    return Field(found.name, "other", word, "{}::text")


def _decimal(typmod: str | None) -> pl.DataType | None:
    """numeric(p, s) as a decimal; None, and so text, if its digits are not bounded or too many."""
    packed = int(typmod or -1) - 4
    if packed < 0:
        return None
    precision, scale = packed >> 16 & 0xFFFF, packed & 0x7FF
    return pl.Decimal(precision, scale) if scale <= precision <= DIGITS else None


def _said(error: BaseException) -> str:
    """The server's message, without the statement that it was about."""
    text = str(error).split("\n\nQuery was:")[0]
    found = re.search(r"(?:ERROR|FATAL):\s+(.*?)(?:\n|$)", text, re.DOTALL)
    if found:
        return re.sub(r"\.? ?SQLSTATE: \w+$", "", found[1])
    return re.sub(r"^\w+: (\[libpq\] )?(Failed to connect: )?", "", described(Exception(text)))


def _hint(state: str) -> str | None:
    return {
        "25006": "a source is only read: write a query that changes nothing",
        "42501": "let the user of source.url read it: GRANT SELECT",
        "57014": "the server's statement_timeout is too short for it",
    }.get(state)
