# ruff: noqa: S608  (names are quoted, values bound or literals)
"""SQLite, through Python's own module.

The ADBC driver is four times as fast, but takes a column's type from its first rows, and fails where a later
value is of another: SQLite lets any value be in any column. Nor can it call Python, which compares times here that
are text.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl

from penstock.errors import PenstockError
from penstock.sources.database_interface import (
    Bound,
    Database,
    Field,
    Kind,
    Select,
    row_batches,
    unreachable,
    wrong,
)

__all__ = ["SQLite"]

SECONDS = 30.0  # until a writer that holds the file is waited for no more
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SQLite(Database):
    """One connection in one transaction; the file is opened for reading and never made."""

    def __init__(self, path: str, name: str) -> None:
        self.name = name
        if not Path(path).is_file():
            raise PenstockError(
                f"{name}: there is no such file", hint="sqlite:///relative/path or sqlite:////absolute/path"
            )
        try:
            address = f"file:{quote(str(Path(path).absolute()))}?mode=ro"
            self._connection = sqlite3.connect(
                address, uri=True, timeout=SECONDS, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise unreachable(name, str(error)) from error
        # A text that is not UTF-8 is shown as its bytes, as any other binary value.
        self._connection.text_factory = _text
        self._connection.create_function("penstock_moment", 1, _moment, deterministic=True)
        self._described = 0
        try:
            self._run("BEGIN")
            self._run("SELECT count(*) FROM sqlite_master")  # the moment that is seen begins here
        except BaseException:
            self.close()
            raise

    def _run(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._telling():
            return self._connection.execute(sql, parameters).fetchall()

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            hint = "is it another program's file, or cut short?" if "not a database" in str(error) or "malformed" in str(error) else None  # fmt: skip
            if "readonly" in str(error):
                hint = "a source is only read: write a query that changes nothing"
            raise wrong(self.name, str(error), hint) from error

    def fields(self, relation: str, query: str | None) -> list[Field]:  # noqa: ARG002
        # A view of its own tells which declared type each column of a query comes from.
        self._described += 1
        view = f"temp.penstock_{self._described}"
        with self._telling():
            names = [
                column[0]
                for column in self._connection.execute(f"SELECT * FROM {relation} LIMIT 0").description
            ]
        self._run(f"CREATE TEMP VIEW {view.removeprefix('temp.')} AS SELECT * FROM {relation}")
        declared = self._run(f"PRAGMA temp.table_xinfo({view.removeprefix('temp.')})")
        self._run(f"DROP VIEW {view}")
        return [_field(name, str(found[2])) for name, found in zip(names, declared, strict=True)]

    def sorted_by(self, found: Field, bounds: Sequence[Bound]) -> str:
        if _as_moments(found, bounds):
            return f"penstock_moment({self.column(found)})"
        return f"{self.column(found)} COLLATE BINARY"

    def compared(self, found: Field, sign: str, bound: Bound, parameters: list[Bound]) -> str:
        if not _as_moments(found, [bound]):
            parameters.append(bound)
            condition = f"{self.sorted_by(found, [bound])} {sign} ?"
            # No number is above any text, whatever its digits.
            numbers = f"typeof({self.column(found)}) IN ('integer', 'real')"
            return f"({numbers} OR {condition})" if isinstance(bound, str) else condition
        moment = _moment(bound.isoformat() if isinstance(bound, date) else bound)
        if moment is None:
            raise PenstockError(
                f"incremental.cursor: the column {found.name!r} of {self.name} holds times; {bound!r} is none",
                hint="write it as 2024-12-31 or 2024-12-31T12:00:00Z",
            )
        parameters.append(moment)
        # What is no time is on either side of any: the contract shall see it.
        value = self.sorted_by(found, [bound])
        return f"({value} IS NULL OR {value} {sign} ?)"

    def batches(self, select: Select, rows: int) -> Generator[pl.DataFrame]:
        with self._telling():
            cursor = self._connection.execute(select.sql, tuple(select.parameters))
            try:
                yield from row_batches(cursor.fetchmany, select.fields, rows)
            finally:
                cursor.close()

    def tables(self) -> list[str]:
        return [
            str(row[0]) for row in self._run("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
        ]

    def cancel(self) -> None:
        self._connection.interrupt()

    def close(self) -> None:
        self._connection.close()


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _field(name: str, declared: str) -> Field:
    """By SQLite's own rules of affinity; the kind says what a bound can be compared with."""
    word = declared.upper()
    kind: Kind = "other"
    empty: pl.DataType = pl.String()
    if "INT" in word:
        kind, empty = "integer", pl.Int64()
    elif any(part in word for part in ("CHAR", "CLOB", "TEXT")):
        kind = "text"
    elif any(part in word for part in ("REAL", "FLOA", "DOUB")):
        kind, empty = "number", pl.Float64()
    # Numbers, dates and expressions without a declared type may be anything.
    return Field(name, "other" if kind == "text" else kind, declared, target=empty)


def _as_moments(found: Field, bounds: Sequence[Bound]) -> bool:
    """Whether a cursor is text that stands for times: T or a blank in the middle, with or without an offset."""
    declared = found.type.upper()
    return "DATE" in declared or "TIME" in declared or any(isinstance(bound, date) for bound in bounds)


def _moment(value: Any) -> int | None:
    """Microseconds since 1970 of ISO 8601 text, without an offset in UTC; None for anything else."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (zoned - EPOCH) // timedelta(microseconds=1)
