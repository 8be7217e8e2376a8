"""What reading needs of a database, and how what goes wrong with one is told."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, Literal

import polars as pl

from penstock.errors import PenstockError
from penstock.sources.database_values import from_python

__all__ = [
    "ROWS",
    "Bound",
    "Database",
    "Field",
    "Kind",
    "Select",
    "described",
    "literal",
    "lost",
    "moment",
    "regrouped",
    "row_batches",
    "unreachable",
    "wrong",
]

# What the rows of a table or query are called in a statement. Columns are qualified with it: a bare name in
# ORDER BY would mean what a cast has made of the column.
ROWS = "penstock_rows"
# Bytes of a chunk, at about which it is cut though it has fewer rows than asked for.
CHUNK_BYTES = 128 << 20
# Python's rows are fetched so many at a time; one in SAMPLED is looked at for its size.
PART = 4096
SAMPLED = 16

Kind = Literal["integer", "number", "boolean", "text", "date", "datetime", "zoned", "binary", "other"]
Bound = int | float | str | date | datetime


@dataclass(frozen=True)
class Field:
    """A column of a table or query.

    Attributes:
        name: As the database spells it.
        kind: What its values are; ``zoned`` is a moment, ``datetime`` one without a zone, taken for UTC.
        type: The database's own word.
        wire: What it is put into in the select list, with ``{}`` for the column.
        target: The type of the chunk's column; None if the values that come say so.
    """

    name: str
    kind: Kind
    type: str = ""
    wire: str = "{}"
    target: pl.DataType | None = None


@dataclass(frozen=True)
class Select:
    """A statement, the values that are bound to it, and the columns that it gives."""

    sql: str
    fields: Sequence[Field]
    parameters: Sequence[Bound] = field(default_factory=tuple)


class Database(ABC):
    """A connection that reads, and sees the database as it was at one moment.

    Attributes:
        name: For people: the address without user, password and options.
    """

    name: str

    def quoted(self, name: str) -> str:
        """An identifier in quotes, whatever is in it."""
        return '"' + name.replace('"', '""') + '"'

    def column(self, found: Field) -> str:
        return f"{ROWS}.{self.quoted(found.name)}"

    def sorted_by(self, found: Field, bounds: Sequence[Bound]) -> str:  # noqa: ARG002  (some look at them)
        """An expression over a cursor that sorts its values as Python does."""
        return self.column(found)

    def compared(self, found: Field, sign: str, bound: Bound, parameters: list[Bound]) -> str:
        """A condition on a cursor; ``sign`` is >=, > or <."""
        return f"{self.sorted_by(found, [bound])} {sign} {self.bound(bound, found, parameters)}"

    def bound(self, bound: Bound, found: Field, parameters: list[Bound]) -> str:  # noqa: ARG002
        """A value in a statement: a literal, or the place of one that is added to ``parameters``."""
        return literal(bound)

    @abstractmethod
    def fields(self, relation: str, query: str | None) -> list[Field]:
        """The columns of a table, or of a query.

        Args:
            relation: The table's name or the query in parentheses, called ROWS.
            query: As it is written: what is wrong with it is told better than of something around it.

        Raises:
            PenstockError: The database does not understand it.
        """

    @abstractmethod
    def batches(self, select: Select, rows: int) -> Generator[pl.DataFrame]:
        """Frames of about ``rows`` rows, with no more than two of them in memory.

        Raises:
            PenstockError: The database refuses, or is gone.
        """

    @abstractmethod
    def tables(self) -> list[str]:
        """The tables and views that can be read: name, or schema.name outside the default schema."""

    def estimate(self, parts: Sequence[str]) -> int | None:  # noqa: ARG002
        """About how many rows a table has; None if asking for it takes long."""
        return None

    def twins(self, count: int) -> AbstractContextManager[list[Database]]:  # noqa: ARG002
        """Further connections that see the very same rows; none where a database cannot do that."""
        return nullcontext([])

    def extremes(self, relation: str, found: Field) -> tuple[Bound, Bound] | None:
        """The least and the largest value of a column, to divide what twins read by."""
        raise NotImplementedError

    def cancel(self) -> None:  # noqa: B027  (where there are no twins, nobody waits)
        """Have another thread's reading end soon."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the connection, also in the middle of a result."""


def literal(bound: Bound) -> str:
    """A value as standard SQL; its type is the column's, since text in quotes has none of its own yet."""
    if isinstance(bound, datetime):
        return f"'{bound.replace(tzinfo=None).isoformat(' ', 'microseconds')}'"
    if isinstance(bound, str):
        return "'" + bound.replace("'", "''") + "'"
    return repr(bound)


def moment(bound: Bound, what: str) -> datetime:
    """A bound of a column of times, UTC.

    Raises:
        PenstockError: It is no time.
    """
    found = bound
    if isinstance(found, str):
        with suppress(ValueError):
            found = datetime.fromisoformat(found)
    if isinstance(found, date) and not isinstance(found, datetime):
        found = datetime(found.year, found.month, found.day, tzinfo=UTC)
    if not isinstance(found, datetime):
        raise PenstockError(
            f"{what} holds dates or times; {bound!r} is neither",
            hint="write it as 2024-12-31 or 2024-12-31T12:00:00Z",
        )
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def regrouped(frames: Iterator[pl.DataFrame], rows: int) -> Iterator[pl.DataFrame]:
    """The same rows in frames of ``rows``, or fewer where they are large. All are of one schema."""
    waiting: list[pl.DataFrame] = []
    height = 0
    size = 0.0
    for frame in frames:
        start = 0
        while start < frame.height:
            part = frame.slice(start, rows - height)
            waiting.append(part)
            start += part.height
            height += part.height
            size += frame.estimated_size() * part.height / frame.height
            if height >= rows or size >= CHUNK_BYTES:
                yield pl.concat(waiting, rechunk=True)
                waiting, height, size = [], 0, 0.0
    if waiting:
        yield pl.concat(waiting, rechunk=True)


def row_batches(
    fetch: Callable[[int], Sequence[Sequence[Any]]], fields: Sequence[Field], rows: int
) -> Generator[pl.DataFrame]:
    """Frames of ``rows`` rows, or fewer where they are large, from rows as Python's objects.

    Args:
        fetch: Gives so many further rows at most, none at the end.
        fields: The columns; the target is the type of one without any value.
        rows: To a frame.
    """
    waiting: list[Sequence[Any]] = []
    size = 0
    while part := fetch(min(PART, rows - len(waiting))):
        waiting.extend(part)
        sample = part[::SAMPLED]
        size += sum(sum(map(_size, row)) for row in sample) * len(part) // len(sample)
        if len(waiting) >= rows or size >= CHUNK_BYTES:
            yield _framed(waiting, fields)
            waiting, size = [], 0
    if waiting:
        yield _framed(waiting, fields)


def _size(value: object) -> int:
    return len(value) if isinstance(value, str | bytes) else 8


def _framed(rows: Sequence[Sequence[Any]], fields: Sequence[Field]) -> pl.DataFrame:
    columns = zip(*rows, strict=True)
    return pl.DataFrame(
        [
            from_python(found.name, values, found.target or pl.String())
            for found, values in zip(fields, columns, strict=True)
        ]
    )


# --- what goes wrong --------------------------------------------------------------------------------


def described(error: BaseException) -> str:
    """What a driver says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return re.sub(r"\s+", " ", " ".join(lines)) or type(error).__name__


def unreachable(name: str, reason: str) -> PenstockError:
    return PenstockError(
        f"{name}: no connection ({reason})",
        hint="check source.url, the secrets in it, and whether the server is up and lets this machine in",
    )


def lost(name: str, reason: str) -> PenstockError:
    return PenstockError(
        f"{name}: the connection was lost while reading ({reason})",
        hint="load again; it goes on from its last commit",
    )


def wrong(name: str, reason: str, hint: str | None = None) -> PenstockError:
    return PenstockError(f"{name}: {reason}", hint=hint)
