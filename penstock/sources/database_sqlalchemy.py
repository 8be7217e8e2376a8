# ruff: noqa: S608  (names are quoted, values bound)
"""MySQL, MariaDB and whatever else SQLAlchemy has a dialect and an installed driver for, row by row.

connectorx was tried for MySQL and is eight times as fast, but it takes the whole result into memory if rows are
not taken as fast as they come, panics at a day of zeros, a time above 24 hours and a decimal above 28 digits, and
needs half a minute to tell that there is no server.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import polars as pl

from penstock.errors import PenstockError
from penstock.sources.database_interface import (
    PART,
    Bound,
    Database,
    Field,
    Kind,
    Select,
    described,
    lost,
    moment,
    row_batches,
    unreachable,
    wrong,
)
from penstock.sources.database_values import DIGITS, as_found

__all__ = ["Server"]

MYSQL = {"mysql", "mariadb"}
# By pymysql.constants.FIELD_TYPE: what it is, what it is put into, and the type of a column without any value.
# The server writes FLOAT with six digits, unless it is a DOUBLE; a TIME may be beyond a day; a BIT is bytes.
INTEGERS = (1, 2, 3, 8, 9, 13)
MYSQL_TYPES: dict[int, tuple[str, Kind, str, pl.DataType]] = {
    **dict.fromkeys(INTEGERS, ("integer", "integer", "{}", pl.Int64())),
    4: ("float", "number", "({} * 1e0)", pl.Float64()),
    5: ("double", "number", "{}", pl.Float64()),
    7: ("timestamp", "zoned", "{}", pl.Datetime("us")),
    10: ("date", "date", "{}", pl.Date()),
    11: ("time", "other", "CAST({} AS CHAR)", pl.String()),
    12: ("datetime", "datetime", "{}", pl.Datetime("us")),
    16: ("bit", "integer", "({} + 0)", pl.Int64()),
    0: ("decimal", "number", "CAST({} AS CHAR)", pl.String()),
    246: ("decimal", "number", "CAST({} AS CHAR)", pl.String()),
    **dict.fromkeys((15, 249, 250, 251, 252, 253, 254), ("text", "text", "{}", pl.String())),
}
DECIMALS = (0, 246)
# A load that commits for a while does not read; the server must not give it up.
PATIENCE = 3600  # seconds


class Server(Database):
    """One connection with a cursor on the server, in one transaction: repeatable read, where there is such."""

    def __init__(self, url: str, name: str) -> None:
        import sqlalchemy as sa

        self.name = name
        self._sa = sa
        try:
            address = sa.make_url(url)
            if address.drivername in MYSQL:
                address = address.set(drivername="mysql+pymysql")
            self._engine = sa.create_engine(address, poolclass=sa.NullPool)
        except (sa.exc.ArgumentError, ModuleNotFoundError, ValueError) as error:
            raise PenstockError(
                f"source.url: {name} cannot be opened ({described(error)})",
                hint="install SQLAlchemy's dialect and the driver for it, and name both: dialect+driver://…",
            ) from error
        self._mysql = self._engine.dialect.name in MYSQL
        try:
            self._connection = self._engine.connect()
        except (sa.exc.DBAPIError, OSError) as error:
            raise unreachable(name, _said(error)) from error
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        options: dict[str, Any] = {"stream_results": True, "max_row_buffer": PART}
        if not self._mysql:
            with self._telling():
                with suppress(self._sa.exc.ArgumentError, NotImplementedError):  # it has its own ways
                    self._connection.execution_options(isolation_level="REPEATABLE READ")
                self._connection.execution_options(**options)
            return
        with self._telling():
            self._connection.execution_options(isolation_level="AUTOCOMMIT")
            for statement in (
                "SET SESSION time_zone = '+00:00'",
                f"SET SESSION net_write_timeout = {PATIENCE}",
                "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
                "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
            ):
                self._connection.exec_driver_sql(statement)
            self._number = int(self._connection.exec_driver_sql("SELECT connection_id()").scalar_one())
            self._connection.execution_options(**options)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except self._sa.exc.DBAPIError as error:
            if error.connection_invalidated:
                raise lost(self.name, _said(error)) from error
            raise wrong(self.name, _said(error)) from error
        except self._sa.exc.SQLAlchemyError as error:
            raise wrong(self.name, described(error).split(" (Background")[0]) from error

    def quoted(self, name: str) -> str:
        # Not quote_identifier: it doubles the percent signs, which text() does as well.
        preparer = self._engine.dialect.identifier_preparer
        opening, closing = preparer.initial_quote, preparer.final_quote
        return f"{opening}{name.replace(closing, closing * 2)}{closing}"

    def _execute(self, sql: str, parameters: Sequence[Bound] = ()) -> Any:
        # A colon of a query is its own; those of parameters are put in afterwards.
        escaped = sql.replace(":", "\\:")
        for number in range(len(parameters)):
            escaped = escaped.replace(_place(number), f":penstock_{number}")
        values = {f"penstock_{number}": value for number, value in enumerate(parameters)}
        return self._connection.execute(self._sa.text(escaped), values)

    def fields(self, relation: str, query: str | None) -> list[Field]:  # noqa: ARG002
        with self._telling():
            result = self._execute(f"SELECT * FROM {relation} WHERE 1 = 0")
            found = [tuple(column) for column in result.cursor.description]
            result.close()
        return [self._field(column) for column in found]

    def _field(self, column: tuple[Any, ...]) -> Field:
        name, code = str(column[0]), column[1]
        if not self._mysql or code not in MYSQL_TYPES:
            return Field(name, "other")
        word, kind, wire, empty = MYSQL_TYPES[code]
        if code in DECIMALS and column[5] <= DIGITS:
            empty = pl.Decimal(DIGITS, column[5])
        return Field(name, kind, word, wire, empty)

    def sorted_by(self, found: Field, bounds: Sequence[Bound]) -> str:  # noqa: ARG002
        # Python compares text by code points, and a blank at the end counts.
        column = self.column(found)
        if found.kind == "other":
            column = found.wire.replace("{}", column)
        return f"CAST(CONVERT({column} USING utf8mb4) AS BINARY)" if found.kind == "text" else column

    def bound(self, bound: Bound, found: Field, parameters: list[Bound]) -> str:
        timed = found.kind in {"date", "datetime", "zoned"}
        # MySQL's own drivers write no offset; the session is in UTC.
        parameters.append(moment(bound, found.name).replace(tzinfo=None) if timed else bound)
        return _place(len(parameters) - 1)

    def batches(self, select: Select, rows: int) -> Generator[pl.DataFrame]:
        targets = [found.target if isinstance(found.target, pl.Decimal) else None for found in select.fields]
        with self._telling():
            result = self._execute(select.sql, select.parameters)
            cursor = result.cursor
            rest = getattr(cursor, "_result", None)
            try:
                for frame in row_batches(result.fetchmany, select.fields, rows):
                    yield as_found(frame, targets)
            finally:
                if self._mysql and rest is not None and rest.unbuffered_active:
                    # Rows are left. pymysql would fetch them all to close its cursor, and again to forget it;
                    # the connection will be closed instead.
                    rest.unbuffered_active = False
                    cursor.connection = None
                result.close()

    def tables(self) -> list[str]:
        with self._telling():
            found = self._sa.inspect(self._connection)
            return [*found.get_table_names(), *found.get_view_names()]

    def estimate(self, parts: Sequence[str]) -> int | None:
        if not self._mysql:
            return None
        schema = "database()" if len(parts) == 1 else _place(1)
        sql = f"SELECT table_rows FROM information_schema.tables WHERE table_name = {_place(0)} AND table_schema = {schema}"
        with self._telling():
            rows = self._execute(sql, [parts[-1], *parts[:-1]]).fetchall()
        return int(rows[0][0]) if rows and rows[0][0] is not None else None

    def cancel(self) -> None:
        if self._mysql:
            with suppress(self._sa.exc.SQLAlchemyError, OSError), self._engine.connect() as other:
                other.exec_driver_sql(f"KILL {self._number}")

    def close(self) -> None:
        # Not handed back but closed: a result may be in the middle.
        with suppress(self._sa.exc.SQLAlchemyError, OSError):
            self._connection.invalidate()
        with suppress(self._sa.exc.SQLAlchemyError, OSError):
            self._connection.close()
        self._engine.dispose()


def _place(number: int) -> str:
    """Stands for a parameter until the colons around it are escaped; no statement has a null character."""
    return f"\0{number}\0"


def _said(error: BaseException) -> str:
    """The driver's message, without the statement and its values that SQLAlchemy adds."""
    origin = getattr(error, "orig", None) or error
    if len(origin.args) > 1 and isinstance(origin.args[0], int):  # number and message
        return described(Exception(origin.args[1]))
    return described(origin)
