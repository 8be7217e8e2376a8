"""One run of a load, from the source to the table.

What makes it safe to kill: rows, the place in the source and the shape of the table become durable in one act of the
destination, and nothing else is believed at the next start. Rows for quarantine are written just before that act, under
the number that it will have; what lies there under a number that the table never reached is thrown away.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from penstock import contract
from penstock.config import Column, ColumnType
from penstock.config.loading import Load
from penstock.contract import QUARANTINE_SCHEMA
from penstock.errors import PenstockError
from penstock.loading import evolution
from penstock.loading.destinations import Committed, Plan, Table, open_table
from penstock.loading.report import Change, Report
from penstock.loading.state import LOAD, POSITION, SOURCE, State
from penstock.loading.steps import Transformation
from penstock.sources.chunks import Chunk, Window
from penstock.sources.reading import chunks
from penstock.sources.secrets import hidden, hiding
from penstock.storage import replacing

__all__ = ["Bounds", "Folders", "Told", "locked", "run"]

Cursor = int | float | str | date | datetime
Told = Callable[[Report], None]


@dataclass(frozen=True)
class Bounds:
    """What a person asks for in place of "what is new".

    Attributes:
        since: Rows from here on, whatever the table remembers; a number, or ISO 8601.
        until: Rows before this.
        full: Everything from the beginning.
    """

    since: str | None = None
    until: str | None = None
    full: bool = False

    @property
    def given(self) -> bool:
        """Whether anything is asked for."""
        return self.full or self.since is not None or self.until is not None


@dataclass(frozen=True)
class Folders:
    """Where a run keeps what is not the table's.

    Attributes:
        own: The load's own folder: lock, journal, rows on their way.
        quarantine: One Parquet file for each load that has rejected rows, by its number.
    """

    own: Path
    quarantine: Path

    @classmethod
    def of(cls, name: str, root: Path = Path()) -> Folders:
        """Those of a repository."""
        return cls(root / ".penstock/loads" / name, root / "data/quarantine/loads" / name)


def run(
    name: str,
    load: Load,
    folders: Folders,
    *,
    bounds: Bounds = Bounds(),
    told: Told | None = None,
    stopped: Callable[[], bool] = lambda: False,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Report:
    """Read what is new and store it.

    Args:
        name: Of the load.
        load: What is declared for it.
        folders: Where it keeps its own things.
        bounds: What to read in place of what is new.
        told: Called at the start and after each commit with what was done so far.
        stopped: Asked after each commit; true ends the run as if the source had ended there.
        now: The clock, for tests.

    Raises:
        PenstockError: Anything that the user can mend; nothing of the uncommitted part is kept.
    """
    _check_bounds(load, bounds)
    report = Report(name=name, started=now())
    with locked(name, folders.own), hiding():
        if told:
            told(report)
        with open_table(load.destination) as table:
            state = table.state
            if state.name not in {"", name}:
                raise PenstockError(
                    f"{table.name}: is written by the load {state.name!r}",
                    hint=f"give {name!r} a table of its own",
                )
            running = _Running(name, load, folders, table, state, report, bounds, told, stopped, now)
            running.go()
            report = running.report.model_copy(update={"ended": now(), "outcome": "done"})
    return report


def _check_bounds(load: Load, bounds: Bounds) -> None:
    if not bounds.given:
        return
    if (bounds.since or bounds.until) and load.incremental is None:
        raise PenstockError(
            "--since and --until need a column to go by",
            hint="name it: incremental: {cursor: …} in conf/load/",
        )
    if load.write == "append" and not load.keys:
        raise PenstockError(
            "rows that are read again would be stored twice: the load appends, and names no `keys`",
            hint="name `keys`, or use write: merge or replace",
        )


@contextmanager
def locked(name: str, folder: Path) -> Iterator[None]:
    """Keep others from writing to the load's table. The lock is the process's: a killed one holds none.

    Raises:
        PenstockError: Another process has it.
    """
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PenstockError(
                f"{name}: is being loaded by another process", hint="wait for it, or end it"
            ) from None
        yield


@dataclass
class _Running:
    """A run between its start and its end."""

    name: str
    load: Load
    folders: Folders
    table: Table
    state: State
    report: Report
    bounds: Bounds
    told: Told | None
    stopped: Callable[[], bool]
    now: Callable[[], datetime]
    columns: dict[str, Column] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    types: dict[str, ColumnType] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    changes: dict[tuple[str, str], Change] = field(default_factory=dict)
    cursor: Cursor | None = None
    staged: int = 0  # rows since the last commit
    resume: dict[str, Any] = field(default_factory=dict)

    def go(self) -> None:
        self.columns = dict(self.state.columns)
        self.absent = self.state.absent
        self.cursor = self._remembered()
        self.resume = {} if self._afresh else dict(self.state.resume)
        self.rejects = _Rejects(self.folders.quarantine, self.folders.own / "rejects")
        self.rejects.clear_beyond(self.state.load)
        self.spill = self.folders.own / "spill"
        shutil.rmtree(self.spill, ignore_errors=True)
        self.steps = Transformation(self.load.steps, self.load.inputs)
        try:
            self._read()
        except BaseException:
            self.table.rollback()
            raise
        finally:
            shutil.rmtree(self.spill, ignore_errors=True)
        for step in self.load.after:
            self.table.after(step)

    @property
    def _afresh(self) -> bool:
        return self.load.write == "replace" or self.bounds.full or self.bounds.since is not None

    # --- reading ------------------------------------------------------------------------------------

    def _read(self) -> None:
        finished = True
        for chunk in chunks(self.load.source, self._window()):
            self._take(chunk)
            self.resume = chunk.resume
            if chunk.boundary and self.staged >= self.load.commit_rows and self._may_stop_early:
                self._commit(finished=False)
                if self.stopped():
                    finished = False
                    break
        self._whole_steps()
        self._absent()
        self._commit(finished=finished)

    @property
    def _may_stop_early(self) -> bool:
        return self.load.write != "replace" and self.steps.rowwise

    def _window(self) -> Window:
        rule = self.load.incremental
        self._learn(self.columns or self.load.contract.columns)
        if rule is None:
            return Window(resume=self.resume, batch_rows=self.load.batch_rows, types=self.types)
        exclusive = False
        if self.bounds.full:
            since = None
        elif self.bounds.since is not None:
            since = _parsed(self.bounds.since)
        elif self.cursor is not None:
            exclusive = rule.strictly_increasing
            since = _before(self.cursor, rule.lag, rule.cursor)
        else:
            since = None if rule.initial is None else _parsed(rule.initial)
        until = None if self.bounds.until is None else _parsed(self.bounds.until)
        return Window(
            resume=self.resume,
            cursor=rule.cursor,
            since=since,
            until=until,
            exclusive=exclusive,
            batch_rows=self.load.batch_rows,
            types=self.types,
        )

    def _remembered(self) -> Cursor | None:
        rule, value = self.load.incremental, self.state.cursor
        if rule is None or value is None:
            return None
        kind = self.state.columns[rule.cursor].type if rule.cursor in self.state.columns else "text"
        if isinstance(value, str) and kind in {"date", "datetime"}:
            return date.fromisoformat(value) if kind == "date" else datetime.fromisoformat(value)
        return value

    # --- one chunk ----------------------------------------------------------------------------------

    def _take(self, chunk: Chunk) -> None:
        read = chunk.frame.height + chunk.broken.height
        self.rejects.add(chunk.broken)
        told: dict[str, Any] = {
            "read": self.report.read + read,
            "bytes": self.report.bytes + int(chunk.frame.estimated_size()),
            "remaining": chunk.remaining,
        }
        reasons = dict(chunk.reasons)
        if chunk.frame.width:
            self.seen.update(chunk.frame.columns)
        if chunk.frame.height:
            reasons = _summed(reasons, self._rows(chunk))
        self.staged += read
        self.report = self.report.model_copy(
            update={
                **told,
                "quarantined": self.rejects.total,
                "reasons": _summed(self.report.reasons, reasons),
                "changes": tuple(self.changes.values()),
            }
        )

    def _learn(self, columns: Mapping[str, Column]) -> None:
        """Let the source know what columns are, of those too that the first rows have shown."""
        self.types.update((name, column.type) for name, column in columns.items())

    def _settled(self, chunk: Chunk) -> pl.DataFrame:
        """The rows of a chunk as they are written, in the shape of the table."""
        assert chunk.written is not None
        load = self.load
        frame = chunk.written()
        return evolution.settle(frame, self.columns, load.contract, load.evolution, source="").frame

    def _rows(self, chunk: Chunk) -> dict[str, int]:
        """Settle, check, transform and stage the rows of a chunk; how many broke which rule."""
        load = self.load
        name = chunk.source if isinstance(chunk.source, str) else str(chunk.source[0])
        settled = evolution.settle(
            chunk.frame, self.columns, load.contract, load.evolution, source=hidden(name)
        )
        source, position = _lineage(chunk)
        reasons: dict[str, int] = {}
        if settled.unwanted.any() and chunk.written is not None:
            return self._rows(replace(chunk, frame=chunk.written(), written=None))
        if settled.unwanted.any():
            at = settled.unwanted
            self.rejects.add(
                _rejected(
                    chunk.frame.filter(at), source.filter(at), position.filter(at), settled.reasons.filter(at)
                )
            )
            reasons = dict(settled.reasons.filter(at).value_counts().iter_rows())
            keep = ~at
            source, position = source.filter(keep), position.filter(keep)
            settled = evolution.kept(settled, keep)
        checked = contract.check(
            settled.frame,
            settled.columns,
            source=source,
            position=position,
            written=None if chunk.written is None else (lambda: self._settled(chunk)),
        )
        again = evolution.retyped(
            settled, checked.reasons, load.contract, load.evolution, source=hidden(name)
        )
        if again is not None and chunk.written is not None:
            return self._rows(replace(chunk, frame=chunk.written(), written=None))
        if again is not None:
            settled = again
            checked = contract.check(settled.frame, settled.columns, source=source, position=position)
        self.columns = settled.columns
        self._learn(settled.columns)
        for change in settled.changes:
            self.changes.setdefault((change.column, change.what), change)
        self.rejects.add(checked.bad)
        self._advance(settled.frame)
        rows = checked.good.with_columns(
            source.gather(checked.kept).alias(SOURCE),
            position.gather(checked.kept).alias(POSITION),
            pl.lit(self.state.load + 1, dtype=pl.Int64).alias(LOAD),
        )
        filtered = 0
        if self.steps.each:
            stepped = self.steps.apply(rows)
            self.rejects.add(stepped.bad)
            reasons = _summed(reasons, stepped.reasons)
            filtered, rows = stepped.filtered, stepped.frame
        if self.steps.rowwise:
            if rows.height:
                self.table.stage(rows)
        else:
            self._put_aside(rows)
        self.report = self.report.model_copy(
            update={
                "filtered": self.report.filtered + filtered,
                "discarded_values": self.report.discarded_values + settled.discarded,
            }
        )
        return _summed(reasons, checked.reasons)

    def _advance(self, frame: pl.DataFrame) -> None:
        """Remember the largest cursor, that of quarantined rows too: they need not be read again."""
        rule = self.load.incremental
        if rule is None:
            return
        if rule.cursor not in frame.columns:
            raise PenstockError(
                f"incremental.cursor: there is no column {rule.cursor!r} in the source",
                hint=f"there are: {', '.join(frame.columns[:12])}",
            )
        kind = self.columns[rule.cursor].type
        largest: Any = frame.select(contract.typed(rule.cursor, kind, frame.schema[rule.cursor]).max()).item()
        if largest is not None and (self.cursor is None or largest > self.cursor):
            self.cursor = largest

    # --- transformation that needs all rows ---------------------------------------------------------

    def _put_aside(self, rows: pl.DataFrame) -> None:
        self.spill.mkdir(parents=True, exist_ok=True)
        rows.write_parquet(self.spill / f"{len(list(self.spill.iterdir())):08d}.parquet", compression="lz4")

    def _whole_steps(self) -> None:
        if self.steps.rowwise or not self.spill.is_dir():
            return
        # A row made of many has no source and position of its own, but it knows its load.
        number = pl.lit(self.state.load + 1, dtype=pl.Int64).alias(LOAD)
        self.steps.apply_whole(self.spill, lambda frame: self.table.stage(frame.with_columns(number)))

    # --- the end ------------------------------------------------------------------------------------

    def _absent(self) -> None:
        if self.report.read:
            self.absent, found = evolution.absent(
                self.columns, self.seen, self.state.absent, source=self.name
            )
            for change in found:
                self.changes.setdefault((change.column, change.what), change)
        self.report = self.report.model_copy(update={"changes": tuple(self.changes.values())})

    def _limit(self) -> None:
        """Fail if too many rows were rejected; they are there to look at."""
        allowed = self.load.contract.max_quarantine_share
        rejected = self.rejects.total
        if self.load.incremental is not None:
            # Rows without a cursor come with every load, however little is new.
            rejected -= self.report.reasons.get(f"{self.load.incremental.cursor}: missing", 0)
        if rejected <= self.load.tolerated_rejects or rejected / max(1, self.report.read) <= allowed:
            return
        contract.refuse(
            self.rejects.shown(),
            self.report.reasons,
            rows=self.report.read,
            rejected=rejected,
            allowed=allowed,
            file=self.rejects.keep_for_a_look(),
            settings="conf/load/",
        )

    def _commit(self, *, finished: bool) -> None:
        rule = self.load.incremental
        state = State(
            name=self.name,
            load=self.state.load + 1,
            resume=self.resume,
            cursor=self.state.cursor if rule is None or self.cursor is None else _as_json(self.cursor),
            columns=self.columns,
            absent=self.absent,
            finished=finished,
        )
        # Nothing came and nothing changed: the table, and what DVC sees of it, stays as it is.
        same = state.model_copy(update={"load": self.state.load}) == self.state
        if same and not self.staged and self.load.write != "replace":
            return
        self._limit()
        self.rejects.commit(state.load)
        done = self.table.commit(state, self._plan())
        self.state = state
        self.staged = 0
        self.report = self._counted(done)
        if self.told:
            self.told(self.report)

    def _plan(self) -> Plan:
        rule = self.load.incremental
        order = None if rule is None else rule.cursor
        return Plan(self.load.write, self.load.keys, order, self.report.started)

    def _counted(self, done: Committed) -> Report:
        report = self.report
        return report.model_copy(
            update={
                "added": report.added + done.added,
                "updated": report.updated + done.updated,
                "unchanged": report.unchanged + done.unchanged,
                "rows": done.rows,
                "commits": report.commits + 1,
                "load": self.state.load,
                "cursor": self.state.cursor,
            }
        )


# --- rows that are rejected -------------------------------------------------------------------------


class _Rejects:
    """Rows on their way to quarantine; on disk, since all rows may be bad."""

    def __init__(self, folder: Path, spool: Path) -> None:
        self.folder, self.spool = folder, spool
        self.total = 0
        self._parts = 0
        shutil.rmtree(spool, ignore_errors=True)

    def add(self, bad: pl.DataFrame) -> None:
        if not bad.height:
            return
        self.spool.mkdir(parents=True, exist_ok=True)
        bad.select(QUARANTINE_SCHEMA.names()).write_parquet(self.spool / f"{self._parts:08d}.parquet")
        self._parts += 1
        self.total += bad.height

    def file(self, load: int) -> Path:
        return self.folder / f"{load:08d}.parquet"

    def commit(self, load: int) -> None:
        """Put what was added since the last commit under the number of this one."""
        if self.spool.is_dir():
            with replacing(self.file(load)) as temporary:
                pl.scan_parquet(self.spool / "*.parquet").sink_parquet(temporary, compression="zstd")
            shutil.rmtree(self.spool)

    def clear_beyond(self, load: int) -> None:
        """Remove what a run wrote that was killed before its commit."""
        if self.folder.is_dir():
            for path in self.folder.glob("*.parquet"):
                if path.stem.isdigit() and int(path.stem) > load:
                    path.unlink()

    def keep_for_a_look(self) -> Path:
        """Put what was not committed where a failure's message can point to."""
        path = self.folder / "refused.parquet"
        if self.spool.is_dir():
            with replacing(path) as temporary:
                pl.scan_parquet(self.spool / "*.parquet").sink_parquet(temporary, compression="zstd")
        return path

    def shown(self) -> pl.DataFrame:
        """Some of them."""
        if not self.spool.is_dir():
            return pl.DataFrame(schema=QUARANTINE_SCHEMA)
        return pl.scan_parquet(self.spool / "*.parquet").head(100_000).collect()


def _rejected(rows: pl.DataFrame, source: pl.Series, position: pl.Series, reason: pl.Series) -> pl.DataFrame:
    return pl.DataFrame(
        {"source": source, "position": position, "reason": reason, "row": contract.as_json(rows)},
        schema=QUARANTINE_SCHEMA,
    )


def _lineage(chunk: Chunk) -> tuple[pl.Series, pl.Series]:
    """Source and position of each row."""
    height = chunk.frame.height
    source = (
        pl.Series([chunk.source], dtype=pl.String).new_from_index(0, height)
        if isinstance(chunk.source, str)
        else chunk.source.cast(pl.String)
    )
    position = (
        pl.int_range(chunk.position, chunk.position + height, eager=True)
        if isinstance(chunk.position, int)
        else chunk.position.cast(pl.Int64)
    )
    return source, position


# --- cursors ----------------------------------------------------------------------------------------


def _parsed(value: float | str) -> Cursor:
    """A bound as a person writes it: a number, or a date, or a date-time (UTC unless it says otherwise)."""
    if not isinstance(value, str):
        return value
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return value
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _before(cursor: Cursor, lag: timedelta | float, name: str) -> Cursor:
    if not lag:
        return cursor
    if isinstance(cursor, datetime) and isinstance(lag, timedelta):
        return cursor - lag
    if isinstance(cursor, date) and isinstance(lag, timedelta):
        # A part of a day may be all that a row is late by.
        return cursor - timedelta(days=-(-lag // timedelta(days=1)))
    if isinstance(cursor, int | float) and not isinstance(lag, timedelta):
        return cursor - (int(lag) if lag == int(lag) else lag)
    raise PenstockError(
        f"incremental.lag: {lag} cannot be taken from {name!r}, which is {cursor!r}",
        hint="write a time span for a time (1h, 7d), and a number for a number",
    )


def _as_json(cursor: Cursor) -> int | float | str:
    return cursor.isoformat() if isinstance(cursor, date) else cursor


def _summed(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    total = dict(first)
    for key, count in second.items():
        total[key] = total.get(key, 0) + count
    return total
