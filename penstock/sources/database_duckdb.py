# ruff: noqa: S608  (names are quoted, values bound or literals)
"""DuckDB files, through DuckDB's own Arrow reader."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from penstock.errors import PenstockError
from penstock.sources.database_interface import (
    Bound,
    Database,
    Field,
    Kind,
    Select,
    described,
    literal,
    moment,
    regrouped,
    unreachable,
    wrong,
)
from penstock.sources.database_values import as_found, from_arrow

__all__ = ["DuckDB"]

# What arrives as it is; the rest is cast to text, or to JSON if it is nested.
NATIVE: dict[str, Kind] = {
    "BOOLEAN": "boolean",
    **dict.fromkeys(
        ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"),
        "integer",
    ),
    "FLOAT": "number",
    "DOUBLE": "number",
    "DECIMAL": "number",
    "VARCHAR": "text",
    "BLOB": "binary",
    "DATE": "date",
    "TIMESTAMP": "datetime",
    "TIMESTAMP_S": "datetime",
    "TIMESTAMP_MS": "datetime",
    "TIMESTAMP WITH TIME ZONE": "zoned",
}
BATCH_ROWS = 20_000  # of one of the reader's batches; a chunk is made of several


class DuckDB(Database):
    """One read-only connection in one transaction."""

    def __init__(self, path: str, name: str) -> None:
        import duckdb
        import pyarrow as pa

        self.name = name
        # In the middle of a result, Arrow speaks for the database.
        self._errors = (duckdb.Error, pa.ArrowException, OSError)
        if not Path(path).is_file():
            raise PenstockError(
                f"{name}: there is no such file", hint="duckdb:///relative/path or duckdb:////absolute/path"
            )
        try:
            self._connection = duckdb.connect(path, read_only=True)
        except duckdb.Error as error:
            raise unreachable(name, described(error)) from error
        with self._telling():
            self._connection.execute("SET TimeZone = 'UTC'")
            self._connection.execute("BEGIN TRANSACTION")

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            said = re.split(r"\n\s*\n|\nLINE ", str(error))[0]
            raise wrong(self.name, described(Exception(said))) from error

    def fields(self, relation: str, query: str | None) -> list[Field]:
        with self._telling():
            found = self._connection.execute(f"DESCRIBE {query or f'SELECT * FROM {relation}'}").fetchall()
        return [_field(str(row[0]), str(row[1])) for row in found]

    def sorted_by(self, found: Field, bounds: Sequence[Bound]) -> str:  # noqa: ARG002
        # What is text in the chunk is compared as text, not by the order of an enumeration.
        column = self.column(found)
        return found.wire.replace("{}", column) if found.kind in {"text", "other"} else column

    def bound(self, bound: Bound, found: Field, parameters: list[Bound]) -> str:  # noqa: ARG002
        # With parameters the reader would take the whole result into memory.
        if found.kind == "zoned":
            return f"{literal(moment(bound, found.name))[:-1]}+00'::TIMESTAMPTZ"
        if found.kind in {"date", "datetime"}:
            return f"{literal(moment(bound, found.name))}::TIMESTAMP"
        return literal(bound)

    def batches(self, select: Select, rows: int) -> Generator[pl.DataFrame]:
        yield from regrouped(self._batches(select), rows)

    def _batches(self, select: Select) -> Iterator[pl.DataFrame]:
        targets = [found.target for found in select.fields]
        with self._telling():
            for batch in self._connection.sql(select.sql).to_arrow_reader(BATCH_ROWS):
                yield as_found(from_arrow(batch), targets)

    def tables(self) -> list[str]:
        with self._telling():
            self._connection.rollback()  # an error has ended the transaction
            rows = self._connection.execute(
                "SELECT CASE table_schema WHEN 'main' THEN table_name ELSE table_schema || '.' || table_name END"
                " FROM information_schema.tables"
            ).fetchall()
        return [str(row[0]) for row in rows]

    def cancel(self) -> None:
        self._connection.interrupt()

    def close(self) -> None:
        self._connection.close()


def _field(name: str, word: str) -> Field:
    base = re.sub(r"\(.*", "", word) if not word.endswith("]") else word
    if base in NATIVE:
        return Field(name, NATIVE[base], word)
    if word.endswith("]") or base in {"STRUCT", "MAP", "UNION"}:
        return Field(name, "other", word, "to_json({})::VARCHAR")
    kind: Kind = "text" if base in {"ENUM", "UUID", "JSON"} else "other"
    return Field(name, "number" if base in {"HUGEINT", "UHUGEINT"} else kind, word, "{}::VARCHAR")
