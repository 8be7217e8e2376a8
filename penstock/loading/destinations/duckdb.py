"""A table in an embedded DuckDB warehouse: one file, no server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from penstock.config.loading import DuckDBDestination
from penstock.errors import PenstockError
from penstock.loading.destinations.sql import STAGE, SqlTable, quoted

__all__ = ["DuckDBTable"]


class DuckDBTable(SqlTable):
    """A table of a DuckDB file."""

    number = "DOUBLE"
    binary = "BLOB"

    def __init__(self, destination: DuckDBDestination) -> None:
        self.name = f"{destination.path} {destination.table}"
        self.path = Path(destination.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.database = duckdb.connect(self.path)
        except duckdb.Error as error:
            locked = "lock" in str(error).lower()
            raise PenstockError(
                f"{self.path}: {_first_line(error)}",
                hint="another process has it open; DuckDB has one writer at a time"
                if locked
                else "is it a DuckDB file?",
            ) from error
        try:
            # Times are UTC, whatever the machine's zone; staged rows need no order but their number.
            self.database.execute("SET TimeZone = 'UTC'")
            self.database.execute("SET preserve_insertion_order = false")
            super().__init__(destination.table)
        except BaseException:
            self.database.close()
            raise

    def _run(self, statement: str, values: Sequence[Any]) -> duckdb.DuckDBPyConnection:
        try:
            return self.database.execute(statement.replace("%s", "?"), list(values))
        except duckdb.Error as error:
            raise PenstockError(
                f"{self.name}: {_first_line(error)}", hint="is there space left, and is the query right?"
            ) from error

    def _execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._run(statement, values).fetchall()

    def _changed(self, statement: str, values: Sequence[Any] = ()) -> int:
        return int(self._run(statement, values).fetchall()[0][0])

    def _copy(self, frame: pl.DataFrame) -> None:
        self.database.register("_penstock_frame", frame.to_arrow())
        try:
            self._execute(f"INSERT INTO {STAGE} SELECT * FROM _penstock_frame")  # noqa: S608  (names of ours)
        finally:
            self.database.unregister("_penstock_frame")

    def _exists(self) -> bool:
        return bool(
            self._execute(
                "SELECT 1 FROM information_schema.tables WHERE table_name = %s AND table_schema = %s",
                [self.table_name, self.schema_name or "main"],
            )
        )

    def _retype(self, name: str, kind: str) -> str:
        return f"ALTER COLUMN {quoted(name)} TYPE {kind}"

    def scan(self) -> pl.LazyFrame:
        if not self._columns:
            return pl.LazyFrame()
        rows: pl.DataFrame = self.database.sql(f"SELECT * FROM {self.target}").pl()  # noqa: S608  (quoted)
        return rows.lazy()

    def compact(self) -> int:
        """Write what is in the log into the file itself."""
        self._execute("CHECKPOINT")
        return 0

    def close(self) -> None:
        self.database.close()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
