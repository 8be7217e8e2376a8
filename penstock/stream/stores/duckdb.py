"""DuckDB as the store: what a machine without Elasticsearch has, one file that one process writes.

What is in the file is known by message: a message whose identity is there was stored, with all its readings or with some;
only then is it asked which. A table of a few messages is looked through where one of many readings would have to be.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import orjson

from penstock.config.streaming import EmbeddedStore
from penstock.errors import PenstockError
from penstock.stream.store import BusyError, Document, Kind, Written

__all__ = ["DuckdbTables"]

T = TypeVar("T")
SECOND = 1_000_000_000
TABLES = """
CREATE TABLE IF NOT EXISTS messages (id VARCHAR PRIMARY KEY, newest BIGINT NOT NULL);
CREATE TABLE IF NOT EXISTS readings (
    message_id VARCHAR NOT NULL, id VARCHAR NOT NULL, time BIGINT NOT NULL, device VARCHAR, session VARCHAR,
    message BIGINT, index INTEGER, sensor VARCHAR, "values" VARCHAR, accuracy DOUBLE, received BIGINT, lag_ms DOUBLE
);
CREATE TABLE IF NOT EXISTS windows (
    id VARCHAR PRIMARY KEY, time BIGINT NOT NULL, device VARCHAR, sensor VARCHAR, readings BIGINT NOT NULL, body VARCHAR
);
"""
FIELDS = ("device", "session", "message", "index", "sensor", "values", "accuracy", "received", "lag_ms")


class DuckdbTables:
    """A store in one file."""

    def __init__(self, view: EmbeddedStore) -> None:
        self.view = view
        self._connection: Any = None
        self._lock = threading.Lock()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._open)
        return self

    def _open(self) -> None:
        import duckdb

        path = Path(self.view.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = duckdb.connect(str(path), config={"threads": 2})
            self._connection.execute(TABLES)
        except duckdb.IOException as error:
            raise PenstockError(
                f"store.path: {path}: {str(error).splitlines()[0][:200]}",
                hint="one process at a time writes it: is an indexer running? Several indexers need Elasticsearch",
            ) from error

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._connection.close)

    async def _run(self, work: Callable[[Any], T]) -> T:
        import duckdb

        def alone() -> T:
            with self._lock:
                return work(self._connection)

        try:
            return await asyncio.to_thread(alone)
        except (duckdb.IOException, duckdb.FatalException) as error:
            raise BusyError(f"store: {self.view.path}: {str(error).splitlines()[0][:200]}") from error

    async def create(self) -> list[str]:
        return [f"{self.view.path}: tables are there"]

    # --- writing ------------------------------------------------------------------------------------

    async def write(self, kind: Kind, documents: Sequence[Document]) -> Written:
        write = self._readings if kind == "readings" else self._windows
        new = await self._run(lambda connection: write(connection, documents))
        return Written(new, len(documents) - new, ())

    def _readings(self, connection: Any, documents: Sequence[Document]) -> int:
        import pyarrow as pa

        newest: dict[str, int] = {}
        for document in documents:
            newest[document.message] = max(newest.get(document.message, 0), document.time)
        messages = pa.table({"id": list(newest), "newest": list(newest.values())})
        connection.register("messages_given", messages)
        found = connection.execute("SELECT id FROM messages SEMI JOIN messages_given USING (id)").fetchall()
        known = {row[0] for row in found}
        kept = documents
        if known:
            there = self._there(connection, [d for d in documents if d.message in known])
            kept = [d for d in documents if d.id not in there]
        if not kept:
            return 0
        bodies = [document.body for document in kept]
        columns: dict[str, list[Any]] = {
            "message_id": [document.message for document in kept],
            "id": [document.id for document in kept],
            "time": [document.time for document in kept],
        }
        for name in FIELDS:
            columns[name] = [body.get(name) for body in bodies]
        columns["values"] = [orjson.dumps(value).decode() for value in columns["values"]]
        kinds = {
            "message": pa.int64(),
            "index": pa.int32(),
            "accuracy": pa.float64(),
            "received": pa.int64(),
            "lag_ms": pa.float64(),
            "time": pa.int64(),
        }
        table = pa.table(
            {name: pa.array(values, kinds.get(name, pa.string())) for name, values in columns.items()}
        )
        connection.register("readings_given", table)
        connection.execute("BEGIN")
        try:
            connection.execute(
                "INSERT OR IGNORE INTO messages SELECT id, newest FROM messages_given"
            ).fetchall()
            connection.execute("INSERT INTO readings SELECT * FROM readings_given").fetchall()
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        return len(kept)

    def _there(self, connection: Any, documents: Sequence[Document]) -> set[str]:
        """Which of the readings of messages that are known are stored."""
        import pyarrow as pa

        times = [document.time for document in documents]
        connection.register("ids_given", pa.table({"id": [document.id for document in documents]}))
        # The span of time keeps the search to a few row groups.
        found = connection.execute(
            "SELECT id FROM readings SEMI JOIN ids_given USING (id) WHERE time BETWEEN ? AND ?",
            [min(times), max(times)],
        ).fetchall()
        return {row[0] for row in found}

    def _windows(self, connection: Any, documents: Sequence[Document]) -> int:
        import pyarrow as pa

        table = pa.table(
            {
                "id": [document.id for document in documents],
                "time": pa.array([document.time for document in documents], pa.int64()),
                "device": pa.array([document.body.get("device") for document in documents], pa.string()),
                "sensor": pa.array([document.body.get("sensor") for document in documents], pa.string()),
                "readings": pa.array([document.body["readings"] for document in documents], pa.int64()),
                "body": [orjson.dumps(document.body).decode() for document in documents],
            }
        )
        connection.register("windows_given", table)
        before = connection.execute("SELECT count(*) FROM windows").fetchall()[0][0]
        connection.execute(
            "INSERT INTO windows SELECT * FROM windows_given "
            "ON CONFLICT (id) DO UPDATE SET readings = excluded.readings, body = excluded.body "
            "WHERE excluded.readings >= readings"
        ).fetchall()
        return int(connection.execute("SELECT count(*) FROM windows").fetchall()[0][0]) - int(before)

    async def expire(self, now: int | None = None) -> list[str]:
        """Delete what is beyond the retention; what was done, in words."""
        if self.view.retention is None:
            return []
        last = (now or time.time_ns()) - int(self.view.retention.total_seconds() * SECOND)

        def work(connection: Any) -> list[str]:
            gone = [
                connection.execute(f"DELETE FROM {table} WHERE {column} < ?", [last]).fetchall()[0][0]
                for table, column in (("readings", "time"), ("windows", "time"), ("messages", "newest"))
            ]
            return [f"{gone[0]} readings and {gone[1]} windows"] if any(gone) else []

        return await self._run(work)

    async def forget(self, device: str) -> int:
        def work(connection: Any) -> int:
            connection.execute("BEGIN")
            try:
                connection.execute(
                    "DELETE FROM messages WHERE id IN (SELECT message_id FROM readings WHERE device = ?)",
                    [device],
                ).fetchall()
                gone = [
                    connection.execute(f"DELETE FROM {table} WHERE device = ?", [device]).fetchall()[0][0]
                    for table in ("readings", "windows")
                ]
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("CHECKPOINT")
            return sum(gone)

        return await self._run(work)

    # --- looking ------------------------------------------------------------------------------------

    async def newest(self, kind: Kind, *, device: str | None, since: int, limit: int) -> list[dict[str, Any]]:
        columns = ("time", *FIELDS) if kind == "readings" else ("time", "body")
        listed = ", ".join(f'"{name}"' for name in columns)
        where = "time >= ?" + ("" if device is None else " AND device = ?")
        given = [since] if device is None else [since, device]
        rows = await self._run(
            lambda connection: connection.execute(
                f"SELECT {listed} FROM {kind} WHERE {where} ORDER BY time DESC LIMIT {int(limit)}", given
            ).fetchall()
        )
        if kind == "windows":
            return [{"time": row[0], **orjson.loads(row[1])} for row in rows]
        found = [dict(zip(columns, row, strict=True)) for row in rows]
        for row in found:
            row["values"] = orjson.loads(row["values"])
        return found

    async def count(self, kind: Kind) -> int:
        return await self._run(
            lambda connection: int(connection.execute(f"SELECT count(*) FROM {kind}").fetchall()[0][0])
        )

    async def refresh(self) -> None:
        """What is written is found at once."""

    async def ready(self) -> bool:
        try:
            await self._run(lambda connection: connection.execute("SELECT 1").fetchall())
        except PenstockError:
            return False
        return True
