"""The store as one SQLite file with a write-ahead log, shared by the processes of a machine.

Reads are on the event loop: they wait for nobody, and take some tens of microseconds. Writes go by one thread of each process, and
all that have come while the last transaction was being synced share the next one. Processes take turns by a lock on a file beside
it: SQLite's own way to wait for a lock is to sleep and look again, which under load shows in the slowest requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import orjson

from penstock.config.serving.recommender import SqliteStore
from penstock.errors import PenstockError
from penstock.serving.recommender.store import (
    Added,
    Impression,
    Interaction,
    NewItem,
    Store,
    StoreDownError,
    now_ms,
)

__all__ = ["SqliteState"]

T = TypeVar("T")
VERSION = 1
MOST_WAITING = 10_000  # writes of one process
TOGETHER = 256  # writes of one transaction
READ_PATIENCE = 0.25  # seconds; a reader waits for nobody but whoever mends the log after a crash

SCHEMA = """
CREATE TABLE IF NOT EXISTS interactions (
    user TEXT NOT NULL, time INTEGER NOT NULL, seq INTEGER NOT NULL, item INTEGER NOT NULL, rating REAL, event TEXT, id TEXT,
    PRIMARY KEY (user, time, seq)
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS interactions_by_id ON interactions (user, id) WHERE id IS NOT NULL;
CREATE INDEX IF NOT EXISTS interactions_by_item ON interactions (user, item, time);
CREATE TABLE IF NOT EXISTS items (
    id INTEGER PRIMARY KEY, title TEXT NOT NULL, genres TEXT NOT NULL, year INTEGER,
    shown INTEGER NOT NULL DEFAULT 0, clicked INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS impressions (
    request TEXT NOT NULL, item INTEGER NOT NULL, user TEXT NOT NULL, time INTEGER NOT NULL, clicked INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (request, user, item)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS impressions_by_user ON impressions (user, time, item);
CREATE INDEX IF NOT EXISTS impressions_by_time ON impressions (time);
"""


@dataclass(slots=True)
class _Write:
    run: Callable[[sqlite3.Connection], Any]
    done: asyncio.Future[Any]


class SqliteState(Store):
    """See ``Store``.

    Args:
        view: What is declared.

    Raises:
        PenstockError: The file cannot be made or opened, or is of another version.
    """

    def __init__(self, view: SqliteStore) -> None:
        self.path = Path(view.path)
        self._patience = view.patience.total_seconds()
        self._loop = asyncio.get_running_loop()
        self._writes: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Personal data: for the owner alone. SQLite gives its own files beside it the same rights.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            self._turn = os.open(self.path.with_name(f"{self.path.name}-turn"), os.O_RDWR | os.O_CREAT, 0o600)
            with self._turns():
                self._writer = self._opened(view.sync)
            self._reader = sqlite3.connect(
                f"{self.path.resolve().as_uri()}?mode=rw",
                uri=True,
                timeout=READ_PATIENCE,
                isolation_level=None,
            )
            self._reader.execute("PRAGMA query_only = ON")
        except (OSError, sqlite3.Error) as error:
            raise PenstockError(
                f"store.path: {self.path} cannot be used: {error}",
                hint="name a file in a folder that can be written to; a damaged one is to be restored from a copy",
            ) from error
        self._thread = threading.Thread(target=self._work, name="penstock-store", daemon=True)
        self._thread.start()

    def _opened(self, sync: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=self._patience, isolation_level=None, check_same_thread=False
        )
        found = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if found not in {0, VERSION}:
            raise PenstockError(
                f"store.path: {self.path} is of version {found}, expected {VERSION}",
                hint="name another file, or serve it by the version of Penstock that wrote it",
            )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {sync.upper()}")
        connection.execute("PRAGMA secure_delete = ON")  # what is erased is overwritten
        connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
        return connection

    # --- writing ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _turns(self) -> Iterator[None]:
        """The turn of this process to write. The kernel ends it if the process dies."""
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)

    def _work(self) -> None:
        while (first := self._writes.get()) is not None:
            writes, end = [first], False
            with self._turns():  # what comes while others have their turn is of this one
                with contextlib.suppress(queue.Empty):
                    while len(writes) < TOGETHER and not end:
                        another = self._writes.get_nowait()
                        end = another is None
                        if another is not None:
                            writes.append(another)
                wanted = [write for write in writes if not write.done.cancelled()]
                self._tell(self._written(wanted))
            if end:
                return

    def _written(self, writes: Sequence[_Write]) -> list[tuple[_Write, Any, BaseException | None]]:
        """All of them in one transaction; one by one if that fails, as it may be the fault of one."""
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            found = [write.run(self._writer) for write in writes]
            self._writer.execute("COMMIT")
        except Exception as error:
            with contextlib.suppress(sqlite3.Error):
                self._writer.execute("ROLLBACK")
            if len(writes) > 1 and not isinstance(error, sqlite3.OperationalError):
                return [told for write in writes for told in self._written([write])]
            return [(write, None, error) for write in writes]
        return [(write, value, None) for write, value in zip(writes, found, strict=True)]

    def _tell(self, outcomes: Sequence[tuple[_Write, Any, BaseException | None]]) -> None:
        def tell() -> None:
            for write, value, error in outcomes:
                if write.done.done():
                    continue
                if error is None:
                    write.done.set_result(value)
                elif isinstance(error, sqlite3.Error):
                    write.done.set_exception(StoreDownError(f"{self.path}: {error}"))
                else:
                    write.done.set_exception(error)

        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(tell)

    async def _write(self, run: Callable[[sqlite3.Connection], T]) -> T:
        if self._writes.qsize() >= MOST_WAITING or not self._thread.is_alive():
            raise StoreDownError(f"{self.path}: {self._writes.qsize()} writes wait")
        write = _Write(run, self._loop.create_future())
        self._writes.put(write)
        try:
            value: T = await asyncio.wait_for(write.done, self._patience)
        except TimeoutError:
            raise StoreDownError(f"{self.path}: not written within {self._patience:.0f} s") from None
        return value

    def _read(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        try:
            return self._reader.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise StoreDownError(f"{self.path}: {error}") from error

    # --- interactions -------------------------------------------------------------------------------

    async def add(self, interactions: Sequence[Interaction], keep: int) -> Added:
        return await self._write(lambda connection: _add(connection, interactions, keep))

    async def history(self, user: str) -> list[Interaction]:
        rows = self._read(
            "SELECT item, time, rating, event, id FROM interactions WHERE user = ? ORDER BY time, seq",
            (user,),
        )
        return [Interaction(user, *row) for row in rows]

    async def remove(self, user: str, item: int, time: int | None) -> int:
        def run(connection: sqlite3.Connection) -> int:
            return connection.execute(
                "DELETE FROM interactions WHERE user = ? AND item = ? AND (? IS NULL OR time = ?)",
                (user, item, time, time),
            ).rowcount

        return await self._write(run)

    async def forget(self, user: str) -> int:
        def run(connection: sqlite3.Connection) -> int:
            connection.execute("DELETE FROM impressions WHERE user = ?", (user,))
            return connection.execute("DELETE FROM interactions WHERE user = ?", (user,)).rowcount

        gone = await self._write(run)
        # The log still has earlier pages until it is written back.
        await asyncio.to_thread(self._write_back)
        return gone

    def _write_back(self) -> None:
        with (
            contextlib.suppress(sqlite3.Error),
            contextlib.closing(sqlite3.connect(self.path, timeout=READ_PATIENCE)) as connection,
        ):
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    # --- items --------------------------------------------------------------------------------------

    async def register(self, items: Sequence[NewItem], most: int) -> bool:
        def run(connection: sqlite3.Connection) -> bool:
            there = {row[0] for row in connection.execute("SELECT id FROM items")}
            if len(there | {item.id for item in items}) > most:
                return False
            connection.executemany(
                "INSERT INTO items (id, title, genres, year) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
                "title = excluded.title, genres = excluded.genres, year = excluded.year",
                [(item.id, item.title, orjson.dumps(item.genres).decode(), item.year) for item in items],
            )
            return True

        return await self._write(run)

    async def items(self) -> list[NewItem]:
        rows = self._read("SELECT id, title, genres, year, shown, clicked FROM items ORDER BY id")
        return [NewItem(id_, title, tuple(orjson.loads(genres)), *rest) for id_, title, genres, *rest in rows]

    async def withdraw(self, item: int) -> bool:
        def run(connection: sqlite3.Connection) -> bool:
            return connection.execute("DELETE FROM items WHERE id = ?", (item,)).rowcount > 0

        return await self._write(run)

    async def show(self, impressions: Sequence[Impression], keep_ms: int) -> int:
        def run(connection: sqlite3.Connection) -> int:
            connection.execute("DELETE FROM impressions WHERE time < ?", (now_ms() - keep_ms,))
            new = 0
            for one in impressions:
                added = connection.execute(
                    "INSERT INTO impressions (request, item, user, time) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                    (one.request, one.item, one.user, one.time),
                ).rowcount
                if added:
                    new += 1
                    connection.execute("UPDATE items SET shown = shown + 1 WHERE id = ?", (one.item,))
            return new

        return await self._write(run)

    async def shown(self, user: str, since: int) -> dict[int, int]:
        return dict(
            self._read(
                "SELECT item, count(*) FROM impressions WHERE user = ? AND time >= ? GROUP BY item",
                (user, since),
            )
        )

    async def close(self) -> None:
        self._writes.put(None)
        await asyncio.to_thread(self._thread.join, self._patience)
        if not self._thread.is_alive():
            self._reader.close()
            self._writer.close()
            os.close(self._turn)


def _add(connection: sqlite3.Connection, interactions: Sequence[Interaction], keep: int) -> Added:
    stored = 0
    for one in interactions:
        time = one.time
        if one.id is not None:
            known = connection.execute(
                "SELECT 1 FROM interactions WHERE user = ? AND id = ?", (one.user, one.id)
            ).fetchone()
        elif time is not None:
            known = connection.execute(
                "SELECT 1 FROM interactions WHERE user = ? AND item = ? AND time = ?",
                (one.user, one.item, time),
            ).fetchone()
        else:
            known = None
        if known is not None:
            continue
        if time is None:
            # Our clock may be set back: what comes last is still the last.
            last = connection.execute(
                "SELECT max(time) FROM interactions WHERE user = ?", (one.user,)
            ).fetchone()[0]
            time = max(now_ms(), last or 0)
        connection.execute(
            "INSERT INTO interactions (user, time, seq, item, rating, event, id) VALUES (?1, ?2, "
            "(SELECT coalesce(max(seq), 0) + 1 FROM interactions WHERE user = ?1 AND time = ?2), ?3, ?4, ?5, ?6)",
            (one.user, time, one.item, one.rating, one.event, one.id),
        )
        stored += 1
        _click(connection, one)
    for user in dict.fromkeys(one.user for one in interactions):
        connection.execute(
            "DELETE FROM interactions WHERE (user, time, seq) IN (SELECT user, time, seq FROM interactions "
            "WHERE user = ? ORDER BY time DESC, seq DESC LIMIT -1 OFFSET ?)",
            (user, keep),
        )
    return Added(stored, len(interactions) - stored)


def _click(connection: sqlite3.Connection, one: Interaction) -> None:
    """Count a click on what was shown, once."""
    if one.request is None:
        return
    clicked = connection.execute(
        "UPDATE impressions SET clicked = 1 WHERE request = ? AND item = ? AND user = ? AND clicked = 0",
        (one.request, one.item, one.user),
    ).rowcount
    if clicked:
        connection.execute("UPDATE items SET clicked = clicked + 1 WHERE id = ?", (one.item,))
