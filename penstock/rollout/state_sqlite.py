"""State in a SQLite file: durable (WAL), and for any number of processes of one machine."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock.config.rollout import Rollout, SqliteState
from penstock.rollout.audit import Entry, Intent, chained
from penstock.rollout.settings import Settings
from penstock.rollout.state import (
    Attribution,
    ConflictError,
    Exposure,
    Reward,
    StateError,
    Versions,
    iso,
    linear,
    now,
    of_request,
    of_user,
)

__all__ = ["SqliteStore"]

BUSY = 2.0  # seconds that another writer may take
SCHEMA = """
CREATE TABLE IF NOT EXISTS settings (model TEXT PRIMARY KEY, version INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS policies (model TEXT PRIMARY KEY, version INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS trail (
  model TEXT NOT NULL, number INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (model, number)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS trail_is_not_rewritten BEFORE UPDATE ON trail
  BEGIN SELECT RAISE(ABORT, 'the audit trail is appended to and never changed'); END;
CREATE TRIGGER IF NOT EXISTS trail_is_not_shortened BEFORE DELETE ON trail
  BEGIN SELECT RAISE(ABORT, 'the audit trail is appended to and never changed'); END;
CREATE TABLE IF NOT EXISTS counters (
  model TEXT NOT NULL, stage TEXT NOT NULL, arm TEXT NOT NULL, name TEXT NOT NULL, value REAL NOT NULL,
  PRIMARY KEY (model, stage, arm, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS attributions (
  model TEXT NOT NULL, request TEXT NOT NULL, arm TEXT NOT NULL, body TEXT NOT NULL, expires REAL NOT NULL,
  PRIMARY KEY (model, request, arm)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS attributions_expire ON attributions (model, expires);
CREATE TABLE IF NOT EXISTS settled (
  model TEXT NOT NULL, request TEXT NOT NULL, position INTEGER NOT NULL, expires REAL NOT NULL,
  PRIMARY KEY (model, request, position)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS users (
  model TEXT NOT NULL, stage TEXT NOT NULL, unit TEXT NOT NULL, arm TEXT NOT NULL, n REAL NOT NULL, total REAL NOT NULL,
  PRIMARY KEY (model, stage, unit)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (
  model TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL, boot TEXT NOT NULL, until REAL NOT NULL,
  PRIMARY KEY (model, key)
) STRICT, WITHOUT ROWID;
"""
ADD = (
    "INSERT INTO counters VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (model, stage, arm, name) DO UPDATE SET value = value + excluded.value"
)


def _boot() -> str:
    """Of this run of the machine: its monotonic clock means nothing in another."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


class SqliteStore:
    """The state of one model's rollout. One thread at a time.

    Args:
        view: What is declared.

    Raises:
        StateError: The file cannot be opened, or is no such state.
    """

    def __init__(self, view: Rollout) -> None:
        assert isinstance(view.state, SqliteState)
        self.view, self.model = view, view.model
        self.path = Path(view.state.path)
        self.boot = _boot()
        self._connection: sqlite3.Connection | None = None
        with self._guarded():
            self._connect()

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # In autocommit; transactions are begun below. From any thread: the caller keeps them apart.
            opened = sqlite3.connect(self.path, timeout=BUSY, isolation_level=None, check_same_thread=False)
            try:
                opened.execute("PRAGMA journal_mode = WAL")
                opened.execute("PRAGMA synchronous = NORMAL")
                opened.executescript(SCHEMA)
            except BaseException:
                opened.close()
                raise
            self.path.chmod(0o600)  # it says who was answered by what
            self._connection = opened
        return self._connection

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            self.close()  # the next one opens it anew
            raise StateError(f"{self.path}: {error}") from error

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._guarded():
            yield self._connect()

    @contextlib.contextmanager
    def _writing(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction. A durable one survives the loss of power, not only of the process."""
        with self._guarded():
            connection = self._connect()
            connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    # --- settings -------------------------------------------------------------------------------------

    def versions(self) -> Versions:
        with self._reading() as c:
            found = c.execute(
                "SELECT (SELECT version FROM settings WHERE model = ?1), (SELECT version FROM policies WHERE model = ?1)",
                (self.model,),
            ).fetchone()
        return Versions(found[0] or 0, found[1] or 0)

    def settings(self) -> Settings | None:
        with self._reading() as c:
            found = c.execute("SELECT body FROM settings WHERE model = ?", (self.model,)).fetchone()
        return None if found is None else _settings(found[0], str(self.path))

    def change(self, before: Settings | None, after: Settings, intent: Intent) -> Entry:
        with self._writing(durable=True) as c:
            found = c.execute("SELECT version FROM settings WHERE model = ?", (self.model,)).fetchone()
            if (found[0] if found else None) != (before.version if before else None):
                raise ConflictError
            c.execute(
                "INSERT INTO settings VALUES (?, ?, ?) "
                "ON CONFLICT (model) DO UPDATE SET version = excluded.version, body = excluded.body",
                (self.model, after.version, after.model_dump_json()),
            )
            was = None if before is None else before.model_dump(mode="json")
            return self._noted(c, intent, was, after.model_dump(mode="json"))

    def note(self, intent: Intent, before: Any, after: Any) -> Entry:
        with self._writing(durable=True) as c:
            return self._noted(c, intent, before, after)

    def _noted(self, c: sqlite3.Connection, intent: Intent, before: Any, after: Any) -> Entry:
        last = c.execute(
            "SELECT body FROM trail WHERE model = ? ORDER BY number DESC LIMIT 1", (self.model,)
        ).fetchone()
        entry = chained(Entry(**json.loads(last[0])) if last else None, iso(now()), intent, before, after)
        c.execute("INSERT INTO trail VALUES (?, ?, ?)", (self.model, entry.number, json.dumps(entry.dump())))
        return entry

    def history(self, newest: int | None = None) -> list[Entry]:
        with self._reading() as c:
            found = c.execute(
                "SELECT body FROM trail WHERE model = ? ORDER BY number DESC LIMIT ?",
                (self.model, -1 if newest is None else newest),
            ).fetchall()
        return [Entry(**json.loads(row[0])) for row in reversed(found)]

    def policy(self) -> dict[str, Any] | None:
        with self._reading() as c:
            found = c.execute("SELECT body FROM policies WHERE model = ?", (self.model,)).fetchone()
        return None if found is None else json.loads(found[0])

    def put_policy(self, policy: dict[str, Any]) -> None:
        with self._writing() as c:
            c.execute(
                "INSERT INTO policies VALUES (?, 1, ?) "
                "ON CONFLICT (model) DO UPDATE SET version = version + 1, body = excluded.body",
                (self.model, json.dumps(policy)),
            )

    # --- counts ---------------------------------------------------------------------------------------

    def add(self, counts: Mapping[tuple[str, str, str], float]) -> None:
        with self._writing() as c:
            c.executemany(ADD, [(self.model, *key, value) for key, value in counts.items()])

    def counters(self, stage: str) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        with self._reading() as c:
            query = "SELECT arm, name, value FROM counters WHERE model = ? AND stage = ?"
            for arm, name, value in c.execute(query, (self.model, stage)):
                found.setdefault(arm, {})[name] = value
        return found

    def attribute(self, several: Iterable[Attribution]) -> None:
        expires = now() + self.view.outcomes.total_seconds()
        rows = [
            (
                self.model,
                one.request,
                one.arm,
                json.dumps([one.role, one.stage, one.unit, one.outputs, one.context]),
                expires,
            )
            for one in several
        ]
        with self._writing() as c:
            c.executemany("INSERT OR REPLACE INTO attributions VALUES (?, ?, ?, ?, ?)", rows)

    def attributed(self, request: str) -> list[Attribution]:
        with self._reading() as c:
            rows = c.execute(
                "SELECT arm, body FROM attributions WHERE model = ? AND request = ? AND expires > ?",
                (self.model, request, now()),
            ).fetchall()
        return [Attribution(request, arm, *json.loads(body)) for arm, body in rows]

    def expose(self, several: Iterable[Exposure], *, enters: bool) -> None:
        with self._writing() as c:
            left: dict[str, int] = {}
            for one in several:
                if one.stage not in left:
                    query = "SELECT COUNT(*) FROM users WHERE model = ? AND stage = ?"
                    left[one.stage] = (
                        self.view.users - c.execute(query, (self.model, one.stage)).fetchone()[0]
                    )
                if left[one.stage] <= 0:
                    c.execute(ADD, (self.model, one.stage, one.arm, "users_uncounted", 1.0))
                    continue
                new = c.execute(
                    "INSERT OR IGNORE INTO users VALUES (?, ?, ?, ?, 0, 0)",
                    (self.model, one.stage, one.unit, one.arm),
                ).rowcount
                if new:
                    left[one.stage] -= 1
                    for name in ("users", "kpi_n")[: 1 + enters]:
                        c.execute(ADD, (self.model, one.stage, one.arm, name, 1.0))

    def settle(self, request: str, row: int, rewards: Sequence[Reward]) -> bool:
        with self._writing() as c:
            expires = now() + self.view.outcomes.total_seconds()
            new = c.execute(
                "INSERT OR IGNORE INTO settled VALUES (?, ?, ?, ?)", (self.model, request, row, expires)
            ).rowcount
            if not new:
                return False
            for reward in rewards:
                added = self._of_user(c, reward) if reward.unit is not None else of_request(reward)
                added |= linear(reward)
                c.executemany(
                    ADD,
                    [(self.model, reward.stage, reward.arm, name, value) for name, value in added.items()],
                )
        return True

    def _of_user(self, c: sqlite3.Connection, reward: Reward) -> dict[str, float]:
        """What a user's number adds to the sums, now that it is another."""
        key = (self.model, reward.stage, reward.unit)
        found = c.execute(
            "SELECT n, total FROM users WHERE model = ? AND stage = ? AND unit = ?", key
        ).fetchone()
        if found is None:
            return {"outcomes": 1.0}  # beyond the bound on users
        count, total = found
        c.execute(
            "UPDATE users SET n = n + 1, total = total + ? WHERE model = ? AND stage = ? AND unit = ?",
            (reward.value, *key),
        )
        return of_user(reward, count, total)

    # --- what is true for a while ---------------------------------------------------------------------

    def put_fact(self, key: str, value: Any, seconds: float) -> None:
        with self._writing() as c:
            c.execute(
                "INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?, ?)",
                (self.model, key, json.dumps(value), self.boot, time.monotonic() + seconds),
            )

    def facts(self, prefix: str) -> dict[str, Any]:
        with self._reading() as c:
            found = c.execute(
                "SELECT key, body FROM facts WHERE model = ? AND boot = ? AND until > ? AND substr(key, 1, ?) = ?",
                (self.model, self.boot, time.monotonic(), len(prefix), prefix),
            ).fetchall()
        return {key[len(prefix) :]: json.loads(body) for key, body in found}

    def lease(self, name: str, holder: str, seconds: float) -> bool:
        with self._writing() as c:
            found = c.execute(
                "SELECT body FROM facts WHERE model = ? AND key = ? AND boot = ? AND until > ?",
                (self.model, f"lease/{name}", self.boot, time.monotonic()),
            ).fetchone()
            if found is not None and json.loads(found[0]) != holder:
                return False
            c.execute(
                "INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?, ?)",
                (self.model, f"lease/{name}", json.dumps(holder), self.boot, time.monotonic() + seconds),
            )
        return True

    def tidy(self) -> None:
        with self._writing() as c:
            c.execute("DELETE FROM attributions WHERE model = ? AND expires <= ?", (self.model, now()))
            c.execute("DELETE FROM settled WHERE model = ? AND expires <= ?", (self.model, now()))
            c.execute(
                "DELETE FROM facts WHERE model = ? AND (boot != ? OR until <= ?)",
                (self.model, self.boot, time.monotonic() - 3600),
            )
            count = c.execute("SELECT COUNT(*) FROM attributions WHERE model = ?", (self.model,)).fetchone()[
                0
            ]
            if count > self.view.attributions:
                c.execute(
                    "DELETE FROM attributions WHERE model = ?1 AND expires <= (SELECT expires FROM attributions "
                    "WHERE model = ?1 ORDER BY expires LIMIT 1 OFFSET ?2)",
                    (self.model, count - self.view.attributions - 1),
                )
            found = c.execute("SELECT body FROM settings WHERE model = ?", (self.model,)).fetchone()
            if found is not None:
                stage = _settings(found[0], str(self.path)).stage
                c.execute("DELETE FROM users WHERE model = ? AND stage != ?", (self.model, stage))

    def close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None


def _settings(body: str, where: str) -> Settings:
    try:
        return Settings.model_validate_json(body)
    except ValueError as error:
        raise StateError(f"{where}: settings of another version of this program: {error}") from error
