"""What was found, window by window, in one SQLite file: judged twice, a window is there once."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from penstock.config.base import View
from penstock.errors import PenstockError
from penstock.monitoring.findings import Cause, Finding, Severity, causes
from penstock.storage import rounded

__all__ = ["History", "Mute", "Told", "WindowRecord"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS windows (start TEXT PRIMARY KEY, until TEXT NOT NULL, record TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS told (cause TEXT PRIMARY KEY, record TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS mutes (cause TEXT PRIMARY KEY, record TEXT NOT NULL);
"""
BUSY = 30.0  # seconds to wait for another process


class WindowRecord(View):
    """A window that was judged.

    Attributes:
        start: Its first moment, UTC.
        end: The first moment after it.
        rows: That were answered, or should have been.
        truths: Of them, whose truth was known when it was judged.
        versions: Of the model, that answered.
        findings: What was found.
        metrics: By name.
        psi: By column.
        means: By direction, in standard deviations of the reference.
        errors: Means of the loss over stretches of rows.
    """

    start: datetime
    end: datetime
    rows: int
    truths: int
    versions: tuple[str, ...]
    findings: tuple[Finding, ...]
    metrics: dict[str, float | None]
    psi: dict[str, float | None]
    means: dict[str, float | None]
    errors: tuple[float, ...]

    @property
    def causes(self) -> list[Cause]:
        """What is to be looked into."""
        return causes(self.findings)


class Told(View):
    """An alert that somebody has been told of."""

    cause: str
    severity: Severity
    headline: str
    since: datetime


class Mute(View):
    """A cause that nobody wants to hear of for a time."""

    cause: str
    until: datetime
    why: str
    by: str


class History:
    """The file of one monitor.

    Args:
        path: Made if it is not there.

    Raises:
        PenstockError: It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._opened() as connection:
            connection.executescript(SCHEMA)

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=BUSY)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                with connection:
                    yield connection
        except sqlite3.DatabaseError as error:
            raise PenstockError(
                f"{self.path}: cannot be used ({error})",
                hint="move it away; `penstock monitor run` makes it anew from the log",
            ) from error

    def put(self, record: WindowRecord) -> None:
        """Keep a window, in place of any that it overlaps: the same log gives the same history."""
        text = json.dumps(rounded(record.model_dump(mode="json"), 6), ensure_ascii=False)
        start, end = _text(record.start), _text(record.end)
        with self._opened() as connection:
            connection.execute("DELETE FROM windows WHERE start < ? AND until > ?", (end, start))
            connection.execute("INSERT INTO windows VALUES (?, ?, ?)", (start, end, text))

    def windows(self, *, last: int | None = None, before: datetime | None = None) -> list[WindowRecord]:
        """Windows in the order of time.

        Args:
            last: Only so many of the latest.
            before: Only those that begin earlier.
        """
        until = "~" if before is None else _text(before)
        with self._opened() as connection:
            rows = connection.execute(
                "SELECT record FROM windows WHERE start < ? ORDER BY start DESC LIMIT ?",
                (until, -1 if last is None else last),
            ).fetchall()
        return [WindowRecord.model_validate_json(row[0]) for row in reversed(rows)]

    def forget(self, before: datetime) -> int:
        """Remove windows that began earlier; returns how many."""
        with self._opened() as connection:
            return int(connection.execute("DELETE FROM windows WHERE start < ?", (_text(before),)).rowcount)

    def told(self) -> dict[str, Told]:
        """Alerts that hold and were told, by cause."""
        return {one.cause: one for one in self._records("told", Told)}

    def tell(self, alerts: Sequence[Told]) -> None:
        """Remember which alerts hold and were told."""
        self._replace("told", {alert.cause: alert for alert in alerts})

    def mutes(self, now: datetime) -> dict[str, Mute]:
        """Mutes that have not run out, by cause."""
        return {one.cause: one for one in self._records("mutes", Mute) if one.until > now}

    def mute(self, mute: Mute) -> None:
        """Mute a cause, in place of an earlier mute of it."""
        with self._opened() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO mutes VALUES (?, ?)", (mute.cause, mute.model_dump_json())
            )

    def unmute(self, cause: str) -> bool:
        """End a mute; whether there was one."""
        with self._opened() as connection:
            return bool(connection.execute("DELETE FROM mutes WHERE cause = ?", (cause,)).rowcount)

    def _records(self, table: str, kind: Any) -> list[Any]:
        with self._opened() as connection:
            rows = connection.execute(f"SELECT record FROM {table} ORDER BY cause").fetchall()  # noqa: S608
        return [kind.model_validate_json(row[0]) for row in rows]

    def _replace(self, table: str, records: dict[str, View]) -> None:
        with self._opened() as connection:
            connection.execute(f"DELETE FROM {table}")  # noqa: S608
            rows = [(name, record.model_dump_json()) for name, record in records.items()]
            connection.executemany(f"INSERT INTO {table} VALUES (?, ?)", rows)  # noqa: S608


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
