"""What every source of a load yields: some rows that know where they come from, and whether to stop here is safe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import polars as pl

from penstock.config import ColumnType
from penstock.contract import QUARANTINE_SCHEMA

__all__ = ["Chunk", "Window"]


@dataclass(frozen=True)
class Window:
    """Which rows are asked for.

    Attributes:
        resume: ``Chunk.resume`` of the last chunk that is durably stored; empty for the first load, or if the
            whole is to be read again.
        cursor: The column of the bounds below; None to read everything.
        since: Rows whose cursor is at or above it (above it, if ``exclusive``); None for no bound.
        until: Rows whose cursor is below it; None for no bound.
        exclusive: Whether a row at ``since`` itself is left out.
        batch_rows: About how many rows a chunk should hold.
        types: What columns are known to be; more may become known while they are read. A source of text may read
            numbers as such at once, where that gives what ``contract.typed`` would make of the text.
    """

    resume: dict[str, Any] = field(default_factory=dict)
    cursor: str | None = None
    since: int | float | str | date | None = None
    until: int | float | str | date | None = None
    exclusive: bool = False
    batch_rows: int = 100_000
    types: Mapping[str, ColumnType] = field(default_factory=dict)


@dataclass(frozen=True)
class Chunk:
    """Rows as they were found.

    Attributes:
        frame: The columns; text where the source has no types. Flat: no struct and no list (see ``flat``).
        written: Gives the same rows as text, as they are written, if ``frame`` was read by ``Window.types``.
        source: What all rows come from (a file, a table, an address, a topic's partition), or one name per row.
            Never with a secret in it.
        position: Number of the first row in its source, counted from 0, or of each row: a row number, an offset.
        broken: Rows that could not be read as rows at all, as ``contract.QUARANTINE_SCHEMA``.
        reasons: How many of those there are for each reason.
        boundary: Whether a load may be cut after this chunk: a later read with ``resume`` (and, if the window has
            a cursor, from the largest cursor so far) loses nothing of what was not yet delivered.
        resume: Given back as ``Window.resume`` once the chunk is stored. JSON.
        remaining: How many more rows the source knows of; None if it cannot tell.
    """

    frame: pl.DataFrame
    source: str | pl.Series
    position: int | pl.Series = 0
    broken: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=QUARANTINE_SCHEMA))
    reasons: dict[str, int] = field(default_factory=dict)
    boundary: bool = False
    resume: dict[str, Any] = field(default_factory=dict)
    remaining: int | None = None
    written: Callable[[], pl.DataFrame] | None = None
