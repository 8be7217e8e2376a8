"""A table in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import polars as pl
import psycopg

from penstock.config.loading import PostgresDestination
from penstock.errors import PenstockError
from penstock.loading.destinations.sql import SEQUENCE, STAGE, SqlTable, _listed, quoted
from penstock.sources.secrets import hidden, revealed

__all__ = ["PostgresTable"]

APPLICATION = "penstock"
CONNECT_SECONDS = 10
LOCK_SECONDS = 5


class PostgresTable(SqlTable):
    """A table of a PostgreSQL database.

    While it is open an advisory lock keeps other machines from loading the same table.
    """

    longest_name = 63  # PostgreSQL cuts longer ones off without a word

    def __init__(self, destination: PostgresDestination) -> None:
        url = revealed(destination.url, url=True)
        self.name = f"{hidden(destination.url)} {destination.table}"
        try:
            self.database = psycopg.connect(
                url, autocommit=True, connect_timeout=CONNECT_SECONDS, application_name=APPLICATION
            )
        except psycopg.Error as error:
            raise PenstockError(
                f"{self.name}: {_words(error)}",
                hint="check destination.url: host, port, user, password, database",
            ) from error
        try:
            parsed = self.database.info
            self.name = f"postgresql://{parsed.host}:{parsed.port}/{parsed.dbname} {destination.table}"
            self._execute("SET TIME ZONE 'UTC'")
            self._execute("SET client_min_messages = warning")
            self._lock(destination.table)
            super().__init__(destination.table)
        except BaseException:
            self.database.close()
            raise

    def _lock(self, table: str) -> None:
        # A moment is granted: the server notices a little after its client that the client is no more.
        self._execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
        try:
            self.database.execute("SELECT pg_advisory_lock(hashtext(%s))", [f"penstock {table}"])
        except psycopg.errors.LockNotAvailable:
            raise PenstockError(
                f"{self.name}: is being loaded from another place", hint="wait for it, or end it"
            ) from None
        self._execute("RESET lock_timeout")

    def _run(self, statement: str, values: Sequence[Any]) -> psycopg.Cursor[Any]:
        try:
            # Without values a per cent sign is one.
            return self.database.execute(statement.encode(), list(values) or None)
        except psycopg.Error as error:
            raise PenstockError(
                f"{self.name}: {_words(error)}",
                hint="is the query right, and may this user create and change tables there?",
            ) from error

    def _execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        cursor = self._run(statement, values)
        return cursor.fetchall() if cursor.description else []

    def _changed(self, statement: str, values: Sequence[Any] = ()) -> int:
        return self._run(statement, values).rowcount

    def _copy(self, frame: pl.DataFrame) -> None:
        # As CSV, nothing between two separators is null and "" is empty text; bytes are written as \x….
        plain = frame.with_columns(
            pl.concat_str(pl.lit("\\x"), pl.col(name).bin.encode("hex")).alias(name)
            for name, kind in frame.schema.items()
            if kind == pl.Binary
        )
        text = plain.write_csv(
            include_header=False,
            quote_style="non_numeric",
            datetime_format="%Y-%m-%d %H:%M:%S%.6f+00",
            float_precision=None,
        )
        try:
            with self.database.cursor().copy(
                f"COPY {STAGE} ({_listed([*self._stage_schema, SEQUENCE])}) FROM STDIN (FORMAT csv)".encode()
            ) as copy:
                copy.write(text)
        except psycopg.Error as error:
            raise PenstockError(
                f"{self.name}: rows cannot be sent ({_words(error)})",
                hint="is the server up, with space left?",
            ) from error

    def _exists(self) -> bool:
        return bool(self._execute("SELECT to_regclass(%s) IS NOT NULL", [self.target])[0][0])

    def _retype(self, name: str, kind: str) -> str:
        return f"ALTER COLUMN {quoted(name)} TYPE {kind} USING {quoted(name)}::{kind}"

    def _index(self, keys: Sequence[str]) -> None:
        self._execute(f"CREATE INDEX ON {self.target} ({_listed(keys)})")

    def scan(self) -> pl.LazyFrame:
        if not self._columns:
            return pl.LazyFrame()
        schema = dict(self._columns)
        with self.database.cursor() as cursor:
            cursor.execute(f"SELECT {_listed([*schema])} FROM {self.target}".encode())  # noqa: S608  (quoted)
            return pl.DataFrame(cursor.fetchall(), schema=schema, orient="row").lazy()

    def compact(self) -> int:
        """Give back the space of rows that are no more, and tell the planner what is there."""
        if self._columns:
            self._execute(f"VACUUM (ANALYZE) {self.target}")
        return 0

    def close(self) -> None:
        if not self.database.closed:
            # At once, and not when the server notices.
            with suppress(psycopg.Error):
                self.database.execute("SELECT pg_advisory_unlock_all()")
        self.database.close()


def _words(error: Exception) -> str:
    return hidden(str(error).strip().splitlines()[0])
