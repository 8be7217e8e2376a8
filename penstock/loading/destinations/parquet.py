"""A folder of Parquet files that any reader can read, and that no kill leaves half-written.

Rows wait under ``_penstock/staging``. A commit writes ``_penstock/table.json``: the state, the files that are the table,
and which of them have still to be renamed or removed. That one write is the commit; the renaming follows, and if it is
cut short the next opening does the rest. While it lasts (milliseconds here, a copy of the new files in an object store),
and only then, a reader that goes by the files alone can see a part of a load; where that is too much, use Delta.

All files have one schema: where a column is added or widened, older files are written anew, so that
``pl.scan_parquet("folder/**/*.parquet")`` works with no options. A partition's column is in its folder's name, for readers
that skip folders by it, and in the files, with its type, for those that do not know. What begins with ``_`` in the folder
is the table's own; nothing that it did not write is ever removed.

A merge reads the keys of the files that may hold those which come (by the least and largest keys in ``table.json``), and
only files that hold a row to be changed are read and written. In memory are the keys of what comes, a file, and
a round of rows that come (``merging.ROUND``); not the table.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from typing import Any
from urllib.parse import quote

import polars as pl

from penstock.config.loading import ParquetDestination
from penstock.errors import PenstockError
from penstock.loading.destinations.interface import VALID_FROM, VALID_TO, Committed, Plan, Table
from penstock.loading.destinations.merging import (
    SEQUENCE,
    aligned,
    by_key,
    closed_by,
    deduplicated,
    in_rounds,
    met,
    versions,
)
from penstock.loading.destinations.places import place
from penstock.loading.destinations.waiting import STAGING, Waiting
from penstock.loading.state import State

__all__ = ["ParquetTable"]

OWN = "_penstock"
LOG = "_penstock/table.json"
NEW = ".new"  # what a file is called until it is the table's; see waiting.SUFFIX
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
SAFE = " ._-"  # besides letters and digits, in the name of a partition's folder
LONGEST_NAME = 255  # bytes of a folder's name
LONGEST_KEY = 256  # letters of a key that the log remembers
BYTES = 256 << 20  # of rows that become a file
UTC = pl.Datetime("us", "UTC")

Entry = dict[str, Any]  # of the log: name, rows, keys (least and largest, by column)


class ParquetTable(Table):
    """A folder of Parquet files."""

    def __init__(self, destination: ParquetDestination) -> None:
        self.destination = destination
        self.name = destination.path
        self.place = place(destination.path, dict(destination.options))
        self._waiting = Waiting(self.place, destination.file_rows)
        self._unsure = False  # whether a commit was begun and not seen to its end
        with self.place.telling():
            self._log = self._recovered()

    # --- what is there ------------------------------------------------------------------------------

    def _recovered(self) -> dict[str, Any]:
        content = self.place.read(LOG)
        if content is None:
            foreign = [
                name for name in self.place.names() if name.endswith(".parquet") and name[0] not in "_."
            ]
            if foreign:
                raise PenstockError(
                    f"{self.name}: holds {foreign[0]}, which no load wrote",
                    hint="name an empty folder, or one of loads",
                )
            log = {"state": State().model_dump(mode="json"), "generation": 0, "files": [], "pending": None}
        else:
            log = self._parsed(content)
        if log["pending"]:
            self._finish(log)
        self.place.remove_folder(STAGING)
        self.place.remove([name for name in self.place.names(OWN) if name != LOG])
        return log

    def _parsed(self, content: bytes) -> dict[str, Any]:
        try:
            log: dict[str, Any] = json.loads(content)
            State.model_validate(log["state"])
            _ = log["generation"], log["pending"], [(entry["name"], entry["rows"]) for entry in log["files"]]
        except (ValueError, KeyError, TypeError) as error:
            raise PenstockError(
                f"{self.name}/{LOG}: not what a load wrote ({error})",
                hint="restore it, or load into another folder",
            ) from error
        return log

    def _finish(self, log: dict[str, Any]) -> None:
        """Rename and remove what a commit has decided. Any part of it may have been done."""
        self.place.move([(name, to) for name, to in log["pending"]["move"]])
        self.place.remove(log["pending"]["remove"])
        log["pending"] = None
        self._write(log)

    def _write(self, log: dict[str, Any]) -> None:
        self.place.write(LOG, (json.dumps(log, ensure_ascii=False) + "\n").encode())

    @property
    def state(self) -> State:
        return State.model_validate(self._log["state"])

    @property
    def files(self) -> list[Entry]:
        """What the table consists of."""
        files: list[Entry] = self._log["files"]
        return files

    def schema(self) -> pl.Schema:
        """Of all files; empty for a table without rows."""
        return self.place.scan([self.files[0]["name"]]).collect_schema() if self.files else pl.Schema()

    def scan(self) -> pl.LazyFrame:
        if not self.files:
            return pl.LazyFrame()
        return self.place.scan([entry["name"] for entry in self.files])

    # --- staging ------------------------------------------------------------------------------------

    def stage(self, frame: pl.DataFrame) -> None:
        with self.place.telling():
            self._settled()
            self._waiting.add(frame)

    def erase(self, column: str, value: str) -> int:
        """Write files without the rows whose column has a value; how many rows that were.

        Personal data: a file of the same name takes the place of each, and nothing of before is kept. Cut short, it is to be
        done again.

        Args:
            column: Of text.
            value: Whose rows go.
        """
        gone = 0
        with self.place.telling():
            self._settled()
            for entry in self.files:
                frame = self.place.read_parquet(entry["name"])
                kept = frame.filter(pl.col(column).ne_missing(value))
                if kept.height == frame.height == entry["rows"]:
                    continue
                if kept.height < frame.height:
                    temporary = f"{OWN}/erasing{NEW}"
                    self.place.write_parquet(temporary, kept)
                    self.place.move([(temporary, entry["name"])])
                gone += frame.height - kept.height
                entry["rows"] = kept.height
            self._write(self._log)
        return gone

    def rollback(self) -> None:
        self._waiting.forget()
        # What lies there may be a part of the table already, and only wait for its name.
        if not self._unsure:
            with self.place.telling():
                self.place.remove_folder(STAGING)

    def _settled(self) -> None:
        """Find out what became of a commit that failed half-way."""
        if self._unsure:
            self._log = self._recovered()
            self._unsure = False

    def close(self) -> None:
        self.rollback()

    # --- committing ---------------------------------------------------------------------------------

    def commit(self, state: State, plan: Plan) -> Committed:
        with self.place.telling():
            self._settled()
            self._waiting.flush()
            change = _Change(self, self._waiting, plan)
            done = change.made()
            self._become(state, change)
        self.rollback()
        return Committed(*done, rows=sum(entry["rows"] for entry in self.files))

    def _become(self, state: State, change: _Change) -> None:
        """Make a change what the table is."""
        if change.moves:
            self.place.settle(STAGING)
        log = {
            "state": state.model_dump(mode="json"),
            "generation": change.generation,
            "files": change.files,
            "pending": {"move": change.moves, "remove": change.removals},
        }
        self._unsure = True
        self._write(log)
        self._finish(log)
        self._log = log
        self._unsure = False

    def compact(self) -> int:
        """Files of less than half of ``file_rows`` become fewer, partition by partition."""
        with self.place.telling():
            self._settled()
            before = len(self.files)
            change = _Change(self, Waiting(self.place, self.destination.file_rows), Plan("append"))
            change.put_together()
            if change.removals:
                self._become(self.state, change)
        self.rollback()
        return before - len(self.files)


class _Change:
    """What a commit is going to do: files that will be the table, and how they come to be there."""

    def __init__(self, table: ParquetTable, waiting: Waiting, plan: Plan) -> None:
        self.place, self.waiting, self.plan = table.place, waiting, plan
        self.destination = table.destination
        self.keys = list(plan.keys)
        self.before = table.schema()
        self.files = [dict(entry) for entry in table.files]
        # Names are unique for ever: a removed file's may still be open somewhere.
        self.generation = table._log["generation"] + 1
        self.moves: list[tuple[str, str]] = []
        self.removals: list[str] = []
        self._open: list[pl.DataFrame] = []
        self._open_bytes = 0
        # What replaces the table need not have its columns.
        self.schema = waiting.schema({} if plan.write == "replace" else self.before)
        if plan.write == "scd2" and self.schema:
            self.schema = pl.Schema({**self.schema, VALID_FROM: UTC, VALID_TO: UTC})
        waiting.require(self.schema, plan)
        for name in self.destination.partition_by:
            if self.schema and name not in self.schema:
                raise PenstockError(
                    f"destination.partition_by: there is no column {name!r}",
                    hint=f"there are: {', '.join(self.schema)}",
                )

    def made(self) -> tuple[int, int, int]:
        """Let staged rows become part of the table; how many were added, updated, and left as they were."""
        if self.plan.write == "replace":
            self.removals += [entry["name"] for entry in self.files]
            self.files = []
        if not self.waiting.rows:
            return 0, 0, 0
        if self.plan.write == "scd2":
            done = self._turn()
        elif self.plan.write == "merge":
            done = self._merge()
        elif self.plan.write == "append" and self.plan.keys:
            done = self._append_new()
        else:
            done = self._append(), 0, 0
        self._flush()
        if self.moves or self.removals:
            self._unify()
        return done

    # --- files --------------------------------------------------------------------------------------

    def _next(self, folder: str, rows: int, keys: dict[str, list[Any]]) -> str:
        """The name of a staged file that is to be one of the table."""
        name = f"part-{self.generation:08d}-{len(self.moves):05d}.parquet"
        self.files.append({"name": folder + name, "rows": rows, "keys": keys})
        return name

    def _add(self, frame: pl.DataFrame) -> None:
        """Put rows in new files."""
        self._open.append(frame)
        self._open_bytes += int(frame.estimated_size())
        if sum(part.height for part in self._open) >= self.destination.file_rows or self._open_bytes >= BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._open:
            frame = pl.concat(self._open, rechunk=False)
            self._open, self._open_bytes = [], 0
            self._store(frame)

    def _store(self, frame: pl.DataFrame) -> None:
        """New files of just these rows, one or more for each partition."""
        if not frame.height:
            return
        by = list(self.destination.partition_by)
        groups = frame.partition_by(by, as_dict=True, maintain_order=True).items() if by else [((), frame)]
        for values, rows in groups:
            folder = "".join(f"{_folder(name, value)}/" for name, value in zip(by, values, strict=True))
            for start in range(0, rows.height, self.destination.file_rows):
                part = rows.slice(start, self.destination.file_rows)
                name = self._next(folder, part.height, _bounds(part, self.keys))
                staged = f"{STAGING}/{name}{NEW}"
                self.place.write_parquet(staged, part)
                self.moves.append((staged, folder + name))

    def _rewrite(self, entry: Entry, rows: pl.DataFrame) -> None:
        """Other rows in the place of a file."""
        self.files.remove(entry)
        self.removals.append(entry["name"])
        self._store(rows)

    def _read(self, entry: Entry) -> pl.DataFrame:
        return aligned(self.place.read_parquet(entry["name"]), self.schema)

    def _unify(self) -> None:
        """Bring files that were written before into the schema of now."""
        if self.before in (self.schema, pl.Schema()):
            return
        new = {name for _, name in self.moves}
        for entry in [entry for entry in self.files if entry["name"] not in new]:
            self._rewrite(entry, self._read(entry))

    def put_together(self) -> None:
        """Fewer and larger files, each of rows of one partition in their order."""
        rows = self.destination.file_rows
        small: dict[str, list[Entry]] = {}
        for entry in self.files:
            if entry["rows"] * 2 <= rows:
                small.setdefault(entry["name"].rpartition("/")[0], []).append(entry)
        for entries in small.values():
            for group in _groups(entries, rows):
                self.keys = list(dict.fromkeys(key for entry in group for key in entry["keys"]))
                self._add(pl.concat([self._read(entry) for entry in group]))
                for entry in group:
                    self.files.remove(entry)
                    self.removals.append(entry["name"])
                self._flush()

    # --- rows ---------------------------------------------------------------------------------------

    def _append(self) -> int:
        """Staged files as they are, where they are fit; returns the rows."""
        for part in self.waiting.parts:
            if self.destination.partition_by or part.schema != self.schema:
                self._add(aligned(self.waiting.frame(part, self.schema), self.schema))
                continue
            name = self._next("", part.rows, {})
            self.moves.append((part.name, name))
        return self.waiting.rows

    def _append_new(self) -> tuple[int, int, int]:
        """Rows whose keys are neither there nor repeated."""
        coming = deduplicated(self.waiting.columns(self.keys, self.schema), self.plan)
        found = [frame[SEQUENCE] for _, frame in self._holding(coming)]
        added = self._add_rest(coming, found)
        return added, 0, self.waiting.rows - added

    def _merge(self) -> tuple[int, int, int]:
        """Rows in the place of those with their keys."""
        order = [] if self.plan.order is None else [self.plan.order]
        coming = self.waiting.columns(list(dict.fromkeys([*self.keys, *order])), self.schema)
        coming = deduplicated(coming, self.plan)
        replaced, unchanged = [_NONE], [_NONE]
        for entries in in_rounds(self._holding(coming.select(*self.keys, SEQUENCE))):
            wanted = pl.concat([frame[SEQUENCE] for _, frame in entries]).unique()
            rows = self.waiting.take(wanted, self.schema)
            for entry, _ in entries:
                there = self._read(entry)
                meeting = met(there, rows, self.plan, pl.concat(replaced))
                if len(meeting.replaced) or meeting.rows.height < there.height:
                    self._rewrite(entry, meeting.rows)
                replaced.append(meeting.replaced)
                unchanged.append(meeting.unchanged)
        added = self._add_rest(coming, [*replaced, *unchanged])
        updated = sum(map(len, replaced))
        return added, updated, self.waiting.rows - added - updated

    def _add_rest(self, coming: pl.DataFrame, done: Sequence[pl.Series]) -> int:
        """Add those rows that come and are not dealt with yet; returns how many."""
        rest = coming.select(SEQUENCE).join(
            pl.concat([_NONE, *done]).to_frame(SEQUENCE), on=SEQUENCE, how="anti"
        )
        for frame in self.waiting.taken(rest[SEQUENCE], self.schema):
            self._add(aligned(frame, self.schema))
        return rest.height

    def _turn(self) -> tuple[int, int, int]:
        """New versions of rows whose values changed; the versions before them end."""
        keys = self.keys
        ours = pl.Schema(
            {name: self.schema[name] for name in self.schema if name not in {VALID_FROM, VALID_TO}}
        )
        coming = self.waiting.columns(keys, ours)
        added = updated = unchanged = 0
        known = coming.clear()
        for entries in in_rounds(self._holding(coming, current=True)):
            found = pl.concat([frame for _, frame in entries])
            known = pl.concat([known, found])
            now = pl.concat(
                [
                    self._read(entry)
                    .filter(pl.col(VALID_TO).is_null())
                    .join(frame, on=keys, how="semi", nulls_equal=True)
                    for entry, frame in entries
                ]
            )
            closed, new, same = versions(now, self.waiting.take(found[SEQUENCE], ours), self.plan)
            for entry, frame in entries:
                ending = closed.join(frame, on=keys, how="semi", nulls_equal=True)
                if ending.height:
                    self._rewrite(entry, closed_by(self._read(entry), ending, keys))
            self._add(aligned(new, self.schema))
            added, updated, unchanged = added + new.height, updated + closed.height, unchanged + same
        rest = coming.join(known, on=SEQUENCE, how="anti")
        nothing = pl.DataFrame(schema=self.schema)
        for part in by_key(rest, keys):
            _, new, same = versions(nothing, self.waiting.take(part[SEQUENCE], ours), self.plan)
            self._add(aligned(new, self.schema))
            added, unchanged = added + new.height, unchanged + same
        return added, updated, unchanged

    # --- finding keys -------------------------------------------------------------------------------

    def _holding(
        self, coming: pl.DataFrame, *, current: bool = False
    ) -> Iterator[tuple[Entry, pl.DataFrame]]:
        """Files that hold keys of rows that come (``current``: in a version that is), with those rows."""
        keys = self.keys
        kinds = pl.Schema({name: self.schema[name] for name in [*keys, *([VALID_TO] if current else [])]})
        names = [name for name in kinds if name in self.before]
        for entry in list(self.files):
            if not self._may_hold(entry, coming):
                continue
            # Columns that no file has are null in all.
            there = aligned(self.place.read_parquet(entry["name"], names or None), kinds)
            if set(keys) <= set(names) and not entry["keys"]:
                entry["keys"] = _bounds(there, keys) if self.before == self.schema else {}
            if current:
                there = there.filter(pl.col(VALID_TO).is_null())
            found = coming.join(there, on=keys, how="semi", nulls_equal=True)
            if found.height:
                yield entry, found

    def _may_hold(self, entry: Entry, coming: pl.DataFrame) -> bool:
        """Whether a key that comes lies between the least and the largest of a file."""
        within = pl.lit(value=True)
        for name, (low, high) in entry["keys"].items():
            kind = self.schema.get(name)
            if name in self.keys and kind is not None and kind == self.before.get(name):
                least, largest = (pl.lit(_bound(bound, kind), dtype=kind) for bound in (low, high))
                within &= pl.col(name).is_between(least, largest)
        return bool(coming.select(within.any()).item())


_NONE = pl.Series(SEQUENCE, [], dtype=pl.Int64)


def _groups(entries: Sequence[Entry], rows: int) -> Iterator[list[Entry]]:
    """Neighbours that fit into one file, where they are several."""
    group: list[Entry] = []
    for entry in entries:
        if group and sum(item["rows"] for item in group) + entry["rows"] > rows:
            if len(group) > 1:
                yield group
            group = []
        group.append(entry)
    if len(group) > 1:
        yield group


def _bounds(rows: pl.DataFrame, keys: Sequence[str]) -> dict[str, list[Any]]:
    """The least and the largest of each key, where that says which are not there: none is missing, and it has an order."""
    bounds: dict[str, list[Any]] = {}
    for name in keys:
        column = rows[name]
        if not _orderly(column.dtype) or column.null_count() or not len(column):
            continue
        if isinstance(column.dtype, pl.Datetime) and column.dtype.time_unit == "ns":
            column = column.to_physical()  # Python's have no nanoseconds
        low, high = column.min(), column.max()
        if isinstance(low, str) and isinstance(high, str) and max(len(low), len(high)) > LONGEST_KEY:
            continue
        bounds[name] = [value.isoformat() if isinstance(value, date) else value for value in (low, high)]
    return bounds


def _orderly(kind: pl.DataType) -> bool:
    """Whether JSON and Python have all values of a type, in its order."""
    return kind.is_integer() or isinstance(kind, pl.Datetime) or kind in {pl.String, pl.Date}


def _bound(value: Any, kind: pl.DataType) -> Any:
    """As it was before the log."""
    if isinstance(kind, pl.Datetime) and isinstance(value, str):
        return datetime.fromisoformat(value)
    return date.fromisoformat(value) if kind == pl.Date else value


def _folder(name: str, value: Any) -> str:
    """A value as the name of a folder, so that it can be read back: what would be taken for its own is escaped.

    Raises:
        PenstockError: No folder can be called that.
    """
    if value is None:
        text = NULL_PARTITION
    else:
        text = quote(str(value).lower() if isinstance(value, bool) else str(value), safe=SAFE)
    folder = f"{quote(name, safe=SAFE)}={text}"
    if len(folder) > LONGEST_NAME:
        raise PenstockError(
            f"destination.partition_by: {name!r} has the value {str(value)[:60]!r}…, too long for a folder's name",
            hint="go by a column of a few short values, such as a day or a country",
        )
    return folder
