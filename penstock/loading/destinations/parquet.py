"""A folder of Parquet files that any reader can read, and that no kill leaves half-written.

Rows wait under ``_penstock/staging``. A commit writes ``_penstock/table.json``: the state, the files that are the table,
and which of them have still to be renamed or removed. That one write is the commit; the renaming follows, and if it is
cut short the next opening does the rest. While it lasts (milliseconds), and only then, a reader that goes by the files
alone can see a part of a load; where that is too much, use Delta.

All files have one schema: where a column is added or widened, older files are written anew, so that
``pl.scan_parquet("folder/**/*.parquet")`` works with no options. A partition's column is in its folder's name and in the
files. What begins with ``_`` in the folder is the table's own; nothing that it did not write is ever removed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import polars as pl

from penstock.config.loading import ParquetDestination
from penstock.errors import PenstockError
from penstock.loading.destinations.interface import VALID_FROM, VALID_TO, Committed, Plan, Table
from penstock.loading.destinations.merging import (
    SEQUENCE,
    aligned,
    deduplicated,
    met,
    versions,
    widened,
)
from penstock.loading.destinations.places import place
from penstock.loading.state import State

if TYPE_CHECKING:
    pass

__all__ = ["ParquetTable"]

LOG = "_penstock/table.json"
STAGING = "_penstock/staging"
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
SAFE = " ._-"  # besides letters and digits, in the name of a partition's folder
BYTES = 256 << 20  # of rows that wait to become a file
ROW_GROUP = 122_880

Bound = "int | float | str | date | datetime"


class ParquetTable(Table):
    """A folder of Parquet files."""

    def __init__(self, destination: ParquetDestination, changed: Callable[[str], None] | None = None) -> None:
        self.destination = destination
        self.name = destination.path
        self.place = place(destination.path, dict(destination.options), changed)
        self._waiting: list[pl.DataFrame] = []
        self._staged: list[dict[str, Any]] = []  # name, rows
        self._log = self._recovered()

    # --- what is there ------------------------------------------------------------------------------

    def _recovered(self) -> dict[str, Any]:
        content = self.place.read(LOG)
        if content is None:
            foreign = [
                name for name in self.place.names() if name.endswith(".parquet") and not name.startswith("_")
            ]
            if foreign:
                raise PenstockError(
                    f"{self.name}: holds {foreign[0]}, which no load wrote",
                    hint="name an empty folder, or one of loads",
                )
            self.place.remove_folder(STAGING)
            return {"state": State().model_dump(mode="json"), "files": [], "pending": None}
        try:
            log: dict[str, Any] = json.loads(content)
            State.model_validate(log["state"])
        except (ValueError, KeyError) as error:
            raise PenstockError(
                f"{self.name}/{LOG}: not what a load wrote ({error})",
                hint="restore it, or load into another folder",
            ) from error
        if log["pending"]:
            self._finish(log)
        self.place.remove_folder(STAGING)
        return log

    def _finish(self, log: dict[str, Any]) -> None:
        """Rename and remove what a commit has decided. Any part of it may have been done."""
        for name, to in log["pending"]["move"]:
            self.place.move(name, to)
        for name in log["pending"]["remove"]:
            self.place.remove(name)
        log["pending"] = None
        self._write(log)

    def _write(self, log: dict[str, Any]) -> None:
        self.place.write(LOG, (json.dumps(log, ensure_ascii=False, default=str) + "\n").encode())

    @property
    def state(self) -> State:
        return State.model_validate(self._log["state"])

    @property
    def _files(self) -> list[dict[str, Any]]:
        files: list[dict[str, Any]] = self._log["files"]
        return files

    def schema(self) -> pl.Schema:
        """Of all files; empty for a table without rows."""
        return self.place.scan([self._files[0]["name"]]).collect_schema() if self._files else pl.Schema()

    def scan(self) -> pl.LazyFrame:
        if not self._files:
            return pl.LazyFrame()
        return self.place.scan([entry["name"] for entry in self._files])

    # --- staging ------------------------------------------------------------------------------------

    def stage(self, frame: pl.DataFrame) -> None:
        if not frame.height:
            return
        last = self._waiting[-1] if self._waiting else None
        if last is not None and last.schema != frame.schema:
            self._flush()
        self._waiting.append(frame)
        rows = sum(part.height for part in self._waiting)
        size = sum(part.estimated_size() for part in self._waiting)
        if rows >= self.destination.file_rows or size >= BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        frame = pl.concat(self._waiting, rechunk=False)
        self._waiting = []
        for start in range(0, frame.height, self.destination.file_rows):
            part = frame.slice(start, self.destination.file_rows)
            name = f"{STAGING}/incoming-{len(self._staged):06d}.parquet"
            self.place.write_parquet(name, part, ROW_GROUP)
            self._staged.append({"name": name, "rows": part.height, "schema": part.schema})

    def rollback(self) -> None:
        self._waiting = []
        self._staged = []
        self.place.remove_folder(STAGING)

    # --- committing ---------------------------------------------------------------------------------

    def commit(self, state: State, plan: Plan) -> Committed:
        self._flush()
        change = _Change(self, state.load, self._widest())
        if plan.write == "replace":
            change.drop_all()
            done = (change.take_over(self._staged), 0, 0)
        elif not self._staged:
            done = (0, 0, 0)
        elif plan.write == "append" and not plan.keys:
            done = (change.take_over(self._staged), 0, 0)
        elif plan.write == "scd2":
            done = change.turn(self._incoming(change.schema), plan)
        else:
            done = change.merge(self._incoming(change.schema), plan)
        if done != (0, 0, 0) or plan.write == "replace":
            change.unify()
        log = {
            "state": state.model_dump(mode="json"),
            "files": change.files,
            "pending": {"move": change.moves, "remove": change.removals},
        }
        self._write(log)
        self._finish(log)
        self._log = log
        self._staged = []
        self.place.remove_folder(STAGING)
        return Committed(*done, rows=sum(entry["rows"] for entry in change.files))

    def _widest(self) -> pl.Schema:
        """The schema with room for what is there and what comes; what is there first."""
        schema = dict(self.schema())
        for entry in self._staged:
            for name, kind in entry["schema"].items():
                schema[name] = widened(schema[name], kind) if name in schema else kind
        for name in self.destination.partition_by:
            if schema and name not in schema:
                raise PenstockError(
                    f"destination.partition_by: there is no column {name!r}",
                    hint=f"there are: {', '.join(schema)}",
                )
        return pl.Schema(schema)

    def _incoming(self, schema: pl.Schema) -> pl.DataFrame:
        """All staged rows, in their order. Bounded by ``commit_rows`` where the source can go on from there."""
        ours = pl.Schema({name: kind for name, kind in schema.items() if name not in {VALID_FROM, VALID_TO}})
        parts = [aligned(self.place.read_parquet(entry["name"]), ours) for entry in self._staged]
        return pl.concat(parts).with_row_index(SEQUENCE)

    def compact(self) -> int:
        """Files of less than half of ``file_rows`` become fewer, partition by partition."""
        change = _Change(self, self.state.load, self.schema())
        before = len(change.files)
        small: dict[str, list[dict[str, Any]]] = {}
        for entry in change.files:
            if entry["rows"] * 2 <= self.destination.file_rows:
                small.setdefault(entry["name"].rpartition("/")[0], []).append(entry)
        for entries in small.values():
            if len(entries) > 1:
                for group in _groups(entries, self.destination.file_rows):
                    change.rewrite(
                        group, pl.concat([self.place.read_parquet(entry["name"]) for entry in group])
                    )
        if change.removals:
            log = {
                "state": self._log["state"],
                "files": change.files,
                "pending": {"move": change.moves, "remove": change.removals},
            }
            self._write(log)
            self._finish(log)
            self._log = log
            self.place.remove_folder(STAGING)
        return before - len(change.files)


def _groups(entries: Sequence[dict[str, Any]], rows: int) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    for entry in entries:
        if group and sum(item["rows"] for item in group) + entry["rows"] > rows:
            if len(group) > 1:
                yield group
            group = []
        group.append(entry)
    if len(group) > 1:
        yield group


class _Change:
    """What a commit is going to do: files that will be the table, and how they come to be there."""

    def __init__(self, table: ParquetTable, load: int, schema: pl.Schema) -> None:
        self.table, self.load, self.schema = table, load, schema
        self.place = table.place
        self.files = [dict(entry) for entry in table._files]
        self.moves: list[tuple[str, str]] = []
        self.removals: list[str] = []
        taken = [entry["name"].rpartition("/")[2] for entry in self.files]
        # Names are unique for ever: a removed file's may still be open somewhere.
        self.generation = 1 + max((int(name.split("-")[1]) for name in taken), default=0)
        self.count = 0

    # --- files --------------------------------------------------------------------------------------

    def _next(self) -> str:
        self.count += 1
        return f"part-{self.generation:08d}-{self.count:05d}.parquet"

    def add(self, frame: pl.DataFrame) -> None:
        """New files of some rows, one or more for each partition."""
        by = list(self.table.destination.partition_by)
        if not frame.height:
            return
        groups = frame.partition_by(by, as_dict=True, maintain_order=True).items() if by else [((), frame)]
        for values, rows in groups:
            folder = "".join(f"{name}={_folder(value)}/" for name, value in zip(by, values, strict=True))
            for start in range(0, rows.height, self.table.destination.file_rows):
                part = rows.slice(start, self.table.destination.file_rows)
                name = self._next()
                staged = f"{STAGING}/{name}"
                self.place.write_parquet(staged, part, ROW_GROUP)
                self.moves.append((staged, folder + name))
                self.files.append({"name": folder + name, "rows": part.height, "keys": {}})

    def take_over(self, staged: Sequence[dict[str, Any]]) -> int:
        """Staged files as they are, where they are fit; returns the rows."""
        rows = 0
        for entry in staged:
            rows += entry["rows"]
            if self.table.destination.partition_by or entry["schema"] != self.schema:
                self.add(aligned(self.place.read_parquet(entry["name"]), self.schema))
                continue
            name = self._next()
            self.moves.append((entry["name"], name))
            self.files.append({"name": name, "rows": entry["rows"], "keys": {}})
        return rows

    def drop_all(self) -> None:
        self.removals += [entry["name"] for entry in self.files]
        self.files = []
        # What replaces the table need not have its columns.
        schema: dict[str, pl.DataType] = {}
        for entry in self.table._staged:
            for name, kind in entry["schema"].items():
                schema[name] = widened(schema[name], kind) if name in schema else kind
        self.schema = pl.Schema(schema)

    def rewrite(self, entries: Sequence[dict[str, Any]], rows: pl.DataFrame) -> None:
        """Other rows in the place of some files."""
        for entry in entries:
            self.files.remove(entry)
            self.removals.append(entry["name"])
        self.add(rows)

    def unify(self) -> None:
        """Bring files that were written before into the schema of now."""
        new = {name for _, name in self.moves}
        for entry in [entry for entry in self.files if entry["name"] not in new]:
            if self.place.scan([entry["name"]]).collect_schema() != self.schema:
                self.rewrite([entry], aligned(self.place.read_parquet(entry["name"]), self.schema))

    # --- rows that have keys ------------------------------------------------------------------------

    def _touched(
        self, incoming: pl.DataFrame, keys: Sequence[str]
    ) -> Iterator[tuple[dict[str, Any], pl.DataFrame]]:
        """Files that hold keys of rows that come, with their rows."""
        wanted = incoming.select(keys).unique()
        bounds = {name: (wanted[name].min(), wanted[name].max()) for name in keys}
        for entry in list(self.files):
            if not self._may_hold(entry, bounds, wanted):
                continue
            there = aligned(self.place.read_parquet(entry["name"], list(keys)), _only(self.schema, keys))
            if there.join(wanted, on=list(keys), how="semi", nulls_equal=True).height:
                yield entry, aligned(self.place.read_parquet(entry["name"]), self.schema)

    def _may_hold(
        self, entry: dict[str, Any], bounds: dict[str, tuple[Any, Any]], wanted: pl.DataFrame
    ) -> bool:
        """Whether the ranges of keys overlap, by the statistics that the file itself has."""
        metadata = self.place.statistics(entry["name"])
        columns = {metadata.schema.column(at).name: at for at in range(metadata.num_columns)}
        for name, (low, high) in bounds.items():
            if name not in columns or low is None or wanted[name].null_count():
                continue
            groups = [
                metadata.row_group(at).column(columns[name]).statistics
                for at in range(metadata.num_row_groups)
            ]
            if any(group is None or not group.has_min_max for group in groups):
                continue
            try:
                if min(group.min for group in groups) > high or max(group.max for group in groups) < low:
                    return False
            except TypeError:  # the file's type is older than the table's
                continue
        return True

    def merge(self, incoming: pl.DataFrame, plan: Plan) -> tuple[int, int, int]:
        """Rows in the place of those with their keys (append: only rows whose keys are not there)."""
        rows = incoming.height
        incoming = deduplicated(incoming, plan)
        unchanged = rows - incoming.height
        updated = 0
        there = pl.Series([], dtype=incoming.schema[SEQUENCE])
        for entry, found in self._touched(incoming, plan.keys):
            meeting = met(found, incoming, plan)
            if meeting is None:
                continue
            there = there.append(meeting.settled)
            if meeting.replaced:
                updated += meeting.replaced
                self.rewrite([entry], meeting.kept)
        settled = there.unique()
        unchanged += len(settled)
        incoming = incoming.filter(~pl.col(SEQUENCE).is_in(settled.implode()))
        self.add(aligned(incoming, self.schema))
        return incoming.height - updated, updated, unchanged

    def turn(self, incoming: pl.DataFrame, plan: Plan) -> tuple[int, int, int]:
        """New versions of rows whose values changed; the versions before them end."""
        utc = pl.Datetime("us", "UTC")
        self.schema = pl.Schema({**self.schema, VALID_FROM: utc, VALID_TO: utc})
        touched = list(self._touched(incoming, plan.keys))
        current = [rows.filter(pl.col(VALID_TO).is_null()) for _, rows in touched]
        nothing = pl.DataFrame(schema=self.schema)
        keys = list(plan.keys)
        now = pl.concat([nothing, *current]).join(
            incoming.select(keys).unique(), on=keys, how="semi", nulls_equal=True
        )
        closed, added, unchanged = versions(now, incoming, plan)
        for entry, rows in touched:
            ended = rows.join(
                closed.rename({VALID_TO: "\0end"}),
                on=keys,
                how="left",
                nulls_equal=True,
                maintain_order="left",
            )
            changed = ended.with_columns(
                pl.when(pl.col(VALID_TO).is_null())
                .then(pl.col("\0end"))
                .otherwise(pl.col(VALID_TO))
                .alias(VALID_TO)
            ).select(self.schema.names())
            if not changed[VALID_TO].equals(rows[VALID_TO], null_equal=True):
                self.rewrite([entry], changed)
        self.add(aligned(added, self.schema))
        return added.height, closed.height, unchanged


def _only(schema: pl.Schema, names: Sequence[str]) -> pl.Schema:
    return pl.Schema({name: schema[name] for name in names})


def _folder(value: Any) -> str:
    """A value as the name of a folder, so that it can be read back: what would be taken for its own is escaped."""
    if value is None:
        return NULL_PARTITION
    return quote(str(value).lower() if isinstance(value, bool) else str(value), safe=SAFE) or "%20"
