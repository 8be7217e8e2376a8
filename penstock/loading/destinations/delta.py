"""A Delta Lake table: every load is a version to go back to, and readers never see a part of one.

deltalake (the Rust implementation) rather than a log of our own: other engines read and write the same tables. Rows and
state are one act: the state is written under its number first, and the table's commit carries that number as an
application transaction, which is what the next opening believes.

Which rows change anything is found here, for a round of keys at a time (``merging.ROUND``). What only adds rows is an
append; else delta-rs merges, and writes only files anew that hold a row to be changed. It holds the rows that come in
memory; where they are many and change a good part of the table, it is written anew, a batch at a time. So it is where a
column's type grows, since Delta widens few types, by the same commit that brings the rows.

delta-rs does not wait for the disk: a commit outlives the end of the process at any moment, though not always that of the
machine in the second after.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

import deltalake
import polars as pl
import pyarrow as pa
from deltalake.exceptions import DeltaError, TableNotFoundError

from penstock.config.loading import DeltaDestination
from penstock.errors import PenstockError
from penstock.loading.destinations import merging
from penstock.loading.destinations.interface import VALID_FROM, VALID_TO, Committed, Plan, Table
from penstock.loading.destinations.merging import (
    SEQUENCE,
    aligned,
    by_key,
    closed_by,
    deduplicated,
    met,
    versions,
)
from penstock.loading.destinations.places import Place, place
from penstock.loading.destinations.waiting import STAGING, Waiting
from penstock.loading.state import LOAD, State
from penstock.sources.secrets import revealed

__all__ = ["DeltaTable"]

APPLICATION = "penstock"
OWN = "_penstock"
ROWS = 1_000_000  # in a staged file
ROW_GROUP = 122_880
SLICE = 65_536
CLOSES = "_penstock_closes"
UTC = pl.Datetime("us", "UTC")
# What delta-rs calls the files that it writes.
DATA = re.compile(r"part-\d{5}-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}-c\d{3}(\.\w+)?\.parquet")
PLAIN = re.compile(r"[A-Za-z0-9:/._=~-]*")  # addresses in which nothing is quoted
# The format forbids them in names.
FORBIDDEN = set(" ,;{}()\n\t=")


class DeltaTable(Table):
    """A Delta Lake table."""

    def __init__(self, destination: DeltaDestination) -> None:
        self.destination = destination
        self.name = destination.path
        self.options = {key: revealed(value) for key, value in destination.options.items()}
        self.place: Place = place(destination.path, dict(destination.fsspec))
        self._waiting = Waiting(self.place, ROWS)
        with self._telling():
            self._open()
            self.place.remove_folder(STAGING)
            if self.table is not None:
                # Of commits that did not come about, and of the one before the last.
                now = _state_file(self._state.load)
                self.place.remove([name for name in self.place.names(OWN) if name != now])

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            with self.place.telling():
                yield
        except DeltaError as error:
            raise PenstockError(
                f"{self.name}: {str(error).strip().splitlines()[0]}",
                hint="is it a Delta table, reachable, and written by loads alone?",
            ) from error

    def _open(self) -> None:
        try:
            self.table: deltalake.DeltaTable | None = deltalake.DeltaTable(
                self.destination.path, storage_options=self.options
            )
        except TableNotFoundError:
            self.table = None
            self._state = State()
            names = self.place.names()
            # The first commit, cut short, leaves files of rows; its state is there before them.
            if any(name.endswith(".parquet") for name in names) and not any(
                name.startswith(f"{OWN}/") for name in names
            ):
                raise PenstockError(
                    f"{self.name}: holds Parquet files, which no load wrote",
                    hint="name an empty folder, or one of loads",
                ) from None
            return
        load = self.table.transaction_version(APPLICATION)
        if load is None:
            raise PenstockError(
                f"{self.name}: is a Delta table that no load made", hint="name another folder"
            )
        content = self.place.read(_state_file(load))
        if content is None:
            raise PenstockError(
                f"{self.name}/{_state_file(load)}: is missing",
                hint="restore it: it says where to go on",
            )
        self._state = State.model_validate_json(content)

    @property
    def state(self) -> State:
        return self._state

    def scan(self, version: int | None = None) -> pl.LazyFrame:
        """The table's rows, as of the last commit or of an earlier version."""
        if self.table is None:
            return pl.LazyFrame()
        table = self.table
        if version is not None:
            table = deltalake.DeltaTable(self.destination.path, version=version, storage_options=self.options)
        # polars' own reader looks for a file of the quoted name where a folder above has a space, say.
        return pl.scan_delta(table, use_pyarrow=PLAIN.fullmatch(table.table_uri) is None)

    # --- staging ------------------------------------------------------------------------------------

    def stage(self, frame: pl.DataFrame) -> None:
        for name in frame.columns:
            if FORBIDDEN & set(name):
                raise PenstockError(
                    f"{self.name}: Delta has no columns of names like {name!r}",
                    hint="rename it in `steps`, without any of: space , ; { } ( ) =",
                )
        with self._telling():
            self._waiting.add(frame)

    def rollback(self) -> None:
        self._waiting.forget()
        with self.place.telling():
            self.place.remove_folder(STAGING)

    def close(self) -> None:
        self.rollback()

    # --- committing ---------------------------------------------------------------------------------

    def commit(self, state: State, plan: Plan) -> Committed:
        with self._telling():
            self._waiting.flush()
            change = _Change(self, plan)
            self.place.write(_state_file(state.load), (state.model_dump_json() + "\n").encode())
            done = change.store(
                deltalake.CommitProperties(
                    app_transactions=[deltalake.Transaction(APPLICATION, state.load)],
                )
            )
            before = self._state.load
            self._open()
            self.place.remove([_state_file(before)] if before else [])
            rows = self.table.count() if self.table is not None else 0
        self.rollback()
        return Committed(*done, rows=rows)

    def compact(self) -> int:
        """Small files become fewer. Those that they replace stay until no version of the last week needs them."""
        if self.table is None:
            return 0
        with self._telling():
            done = self.table.optimize.compact(writer_properties=_written())
            self.table.vacuum(dry_run=False)
            # What killed commits left: named as delta-rs names files, and a week old.
            strays = self.table.vacuum(dry_run=True, full=True)
            self.place.remove([name for name in strays if DATA.fullmatch(PurePosixPath(name).name)])
            self._open()
        return int(done["numFilesRemoved"]) - int(done["numFilesAdded"])


class _Change:
    """How staged rows become a version."""

    def __init__(self, table: DeltaTable, plan: Plan) -> None:
        self.table, self.plan, self.waiting = table, plan, table._waiting
        self.keys = list(plan.keys)
        self.before = table.scan().collect_schema()
        # A commit of no rows made a table with no columns but that of lineage.
        self.fresh = self.before.names() in ([], [LOAD])
        self.schema = self.waiting.schema({} if self.fresh or plan.write == "replace" else self.before)
        self.ours = self.schema  # of rows that come
        if plan.write == "scd2" and self.schema:
            self.ours = pl.Schema({n: k for n, k in self.schema.items() if n not in {VALID_FROM, VALID_TO}})
            self.schema = pl.Schema({**self.schema, VALID_FROM: UTC, VALID_TO: UTC})
        self.waiting.require(self.schema, plan)
        for name in table.destination.partition_by:
            if self.schema and name not in self.schema:
                raise PenstockError(
                    f"destination.partition_by: there is no column {name!r}",
                    hint=f"there are: {', '.join(self.schema)}",
                )

    def store(self, said: deltalake.CommitProperties) -> tuple[int, int, int]:
        """Commit; how many rows were added, updated, and left as they were."""
        self.said = said
        if not self.waiting.rows:
            self._nothing()
            return 0, 0, 0
        if self.plan.write == "replace":
            self._overwrite(self._all())
            return self.waiting.rows, 0, 0
        if self.plan.write == "scd2":
            return self._turn()
        if self.keys:
            return self._merge()
        self._apply(self._all())
        return self.waiting.rows, 0, 0

    # --- writing ------------------------------------------------------------------------------------

    def _write(self, rows: Any, mode: str, **others: Any) -> None:
        partition_by = [name for name in self.table.destination.partition_by if name in self.schema]
        deltalake.write_deltalake(
            self.table.destination.path,
            rows,
            mode=mode,
            partition_by=partition_by or None,
            storage_options=self.table.options,
            commit_properties=self.said,
            writer_properties=_written(),
            **others,
        )

    def _nothing(self) -> None:
        """The state alone: a commit of no rows."""
        if self.table.table is None:
            # A table needs a column; that of lineage will be there anyhow.
            self._write(pl.DataFrame(schema={LOAD: pl.Int64}).to_arrow(), "overwrite")
            return
        self.schema = self.before
        self._write(_arrow([], self.before), "overwrite" if self.plan.write == "replace" else "append")

    def _overwrite(self, frames: Iterable[pl.DataFrame]) -> None:
        self._write(_arrow(frames, self.schema), "overwrite", schema_mode="overwrite")

    def _anew(self, changed: int) -> bool:
        """Whether to write the whole table: a column changes its type, or much of it and more than delta-rs should join."""
        assert self.table.table is not None
        wider = any(self.schema[name] != kind for name, kind in self.before.items())
        return wider or (changed > merging.ROUND and 4 * changed > self.table.table.count())

    def _apply(
        self,
        new: Iterable[pl.DataFrame],
        updated: int = 0,
        changed: Callable[[pl.DataFrame], pl.DataFrame] = lambda rows: rows,
        merge: Callable[[], Any] | None = None,
    ) -> None:
        """Commit new rows, and a change of those that are there.

        Args:
            new: Rows to add.
            updated: How many of those that are there change.
            changed: What becomes of some of them.
            merge: Makes what does all of this at once.
        """
        if self.fresh:
            self._overwrite(new)
        elif self._anew(updated):
            self._overwrite(_chained(map(changed, self._there()), new))
        elif merge is None or not updated:
            self._write(_arrow(new, self.schema), "append", schema_mode="merge")
        else:
            merge().execute()

    def _all(self) -> Iterator[pl.DataFrame]:
        return (self.waiting.frame(part, self.schema) for part in self.waiting.parts)

    def _there(self) -> Iterator[pl.DataFrame]:
        """All rows of the table, a batch at a time, in the types of now."""
        for batch in self.table.scan().collect_batches(chunk_size=ROW_GROUP, maintain_order=True):
            yield aligned(batch, self.schema)

    def _merging(self, rows: pa.RecordBatchReader, coming: pl.DataFrame, more: str = "") -> Any:
        assert self.table.table is not None
        # Equality passes files over by their statistics; it fails where a key that comes is null.
        nulls = any(coming[name].null_count() for name in self.keys)
        same = "IS NOT DISTINCT FROM" if nulls else "="
        on = " AND ".join(f"(s.{_quoted(name)} {same} t.{_quoted(name)})" for name in self.keys)
        return self.table.table.merge(
            rows,
            predicate=on + more,
            source_alias="s",
            target_alias="t",
            merge_schema=True,
            commit_properties=self.said,
            writer_properties=_written(),
            streamed_exec=False,
        )

    # --- rows that have keys ------------------------------------------------------------------------

    def _known(self, coming: pl.DataFrame, *, current: bool = False) -> pl.DataFrame:
        """Rows that are there of the keys that come; ``current``: versions that are."""
        if self.fresh:
            return pl.DataFrame(schema=self.schema)
        there = self.table.scan()
        if current and VALID_TO in self.before:
            there = there.filter(pl.col(VALID_TO).is_null())
        for name in self.keys:
            # So that files and row groups are passed over by what is known of their least and largest.
            low, high = coming[name].min(), coming[name].max()
            if name in self.before and self.before[name] == coming.schema[name] and low is not None:
                within = pl.col(name).is_between(pl.lit(low), pl.lit(high))
                there = there.filter(within | pl.col(name).is_null() if coming[name].null_count() else within)
        # Only then in the types of now, which hide a column from what reads the files.
        lacking = [pl.lit(None, dtype=self.schema[n]).alias(n) for n in self.keys if n not in self.before]
        casts = [
            pl.col(n).cast(self.schema[n])
            for n in self.keys
            if n in self.before and self.before[n] != self.schema[n]
        ]
        wanted = coming.select(self.keys).unique().lazy()
        found = there.with_columns(*lacking, *casts).join(wanted, on=self.keys, how="semi", nulls_equal=True)
        return aligned(found.collect(), self.schema)

    def _merge(self) -> tuple[int, int, int]:
        """Rows in the place of those with their keys; append: rows whose keys are neither there nor repeated."""
        order = [self.plan.order] if self.plan.order is not None and self.plan.write == "merge" else []
        coming = self.waiting.columns(list(dict.fromkeys([*self.keys, *order])), self.schema)
        coming = deduplicated(coming, self.plan)
        replaced, unchanged = [_NONE], [_NONE]
        for part in by_key(coming, self.keys):
            there = self._known(part)
            if self.plan.write == "append":
                found = part.join(there, on=self.keys, how="semi", nulls_equal=True)
                unchanged.append(found[SEQUENCE])
                continue
            meeting = met(there, self.waiting.take(part[SEQUENCE], self.schema), self.plan)
            replaced.append(meeting.replaced)
            unchanged.append(meeting.unchanged)
        updated = sum(map(len, replaced))
        rest = coming.join(pl.concat(unchanged).to_frame(SEQUENCE), on=SEQUENCE, how="anti")
        gone = rest.join(pl.concat(replaced).to_frame(SEQUENCE), on=SEQUENCE, how="semi")
        new = self.waiting.taken(rest[SEQUENCE], self.schema)

        def merge() -> Any:
            both = self._merging(_arrow(new, self.schema), coming)
            return both.when_matched_update_all().when_not_matched_insert_all()

        self._apply(
            new,
            updated,
            lambda batch: batch.join(gone, on=self.keys, how="anti", nulls_equal=True),
            merge,
        )
        return rest.height - updated, updated, self.waiting.rows - rest.height

    def _turn(self) -> tuple[int, int, int]:
        """New versions of rows whose values changed; the versions before them end."""
        # Versions lie on disk too until all are found.
        turned = Waiting(self.table.place, ROWS, "turned")
        ended = [pl.DataFrame(schema={**{n: self.schema[n] for n in self.keys}, VALID_TO: UTC})]
        unchanged = 0
        coming = self.waiting.columns(self.keys, self.schema)
        for part in by_key(coming, self.keys):
            now = self._known(part, current=True)
            closed, added, same = versions(now, self.waiting.take(part[SEQUENCE], self.ours), self.plan)
            ended.append(closed)
            turned.add(aligned(added, self.schema))
            unchanged += same
        turned.flush()
        closed = pl.concat(ended)
        self._apply(
            (turned.frame(part, self.schema) for part in turned.parts),
            closed.height,
            lambda batch: closed_by(batch, closed, self.keys),
            lambda: self._closing(closed, turned, coming),
        )
        return turned.rows, closed.height, unchanged

    def _closing(self, closed: pl.DataFrame, turned: Waiting, coming: pl.DataFrame) -> Any:
        whole = pl.Schema({**self.schema, CLOSES: pl.Boolean()})
        mark = pl.lit(value=True).alias(CLOSES)
        rows = _chained(
            [aligned(closed, self.schema).with_columns(mark)],
            (turned.frame(part, self.schema).with_columns(~mark) for part in turned.parts),
        )
        more = f" AND t.{VALID_TO} IS NULL AND s.{CLOSES}"
        merge = self._merging(_arrow(rows, whole), coming, more)
        insert = {_quoted(name): f"s.{_quoted(name)}" for name in self.schema}
        merge = merge.when_matched_update(updates={VALID_TO: f"s.{VALID_TO}"})
        return merge.when_not_matched_insert(updates=insert, predicate=f"NOT s.{CLOSES}")


_NONE = pl.Series(SEQUENCE, [], dtype=pl.Int64)


def _state_file(load: int) -> str:
    return f"{OWN}/state-{load}.json"


def _written() -> deltalake.WriterProperties:
    return deltalake.WriterProperties(compression="ZSTD", max_row_group_size=ROW_GROUP)


def _chained(first: Iterable[pl.DataFrame], then: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    yield from first
    yield from then


def _arrow(frames: Iterable[pl.DataFrame], schema: pl.Schema) -> pa.RecordBatchReader:
    """Frames as Arrow, one at a time."""
    kinds = pl.DataFrame(schema=schema).to_arrow().schema

    def batches() -> Iterator[pa.RecordBatch]:
        for frame in frames:
            # delta-rs holds on to the whole of what it got a slice of.
            yield from aligned(frame, schema).to_arrow().cast(kinds).to_batches(max_chunksize=SLICE)

    return pa.RecordBatchReader.from_batches(kinds, batches())


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
