"""A Delta Lake table: every load is a version to go back to, and readers never see a part of one.

deltalake (the Rust implementation) rather than a log of our own: other engines read and write the same tables. Rows and
state are one act: the state is written under its number first, and the table's commit carries that number as an
application transaction, which is what the next opening believes.
"""

from __future__ import annotations

from typing import Any

import deltalake
import polars as pl
import pyarrow as pa
from deltalake.exceptions import DeltaError, TableNotFoundError

from penstock.config.loading import DeltaDestination
from penstock.errors import PenstockError
from penstock.loading.destinations.interface import VALID_FROM, VALID_TO, Committed, Plan, Table
from penstock.loading.destinations.merging import SEQUENCE, aligned, deduplicated, met, versions, widened
from penstock.loading.destinations.places import Place, place
from penstock.loading.state import LINEAGE, State
from penstock.sources.secrets import revealed

__all__ = ["DeltaTable"]

APPLICATION = "penstock"
STATES = "_penstock"
STAGING = "_penstock/staging"
ROW_GROUP = 122_880
ROWS = 500_000  # that wait to become a staged file
CLOSES = "_penstock_closes"


class DeltaTable(Table):
    """A Delta Lake table."""

    def __init__(self, destination: DeltaDestination) -> None:
        self.destination = destination
        self.name = destination.path
        self.options = {key: revealed(value) for key, value in destination.options.items()}
        self.place: Place = place(destination.path, dict(destination.fsspec))
        self._waiting: list[pl.DataFrame] = []
        self._staged: list[tuple[str, dict[str, pl.DataType]]] = []
        self._rows = 0
        self.place.remove_folder(STAGING)
        self._open()

    def _open(self) -> None:
        try:
            self.table: deltalake.DeltaTable | None = deltalake.DeltaTable(
                self.destination.path, storage_options=self.options
            )
        except TableNotFoundError:
            self.table = None
            self._state = State()
            return
        except DeltaError as error:
            raise PenstockError(
                f"{self.name}: {error}", hint="is it a Delta table, and reachable?"
            ) from error
        load = self.table.transaction_version(APPLICATION)
        if load is None:
            raise PenstockError(
                f"{self.name}: is a Delta table that no load made", hint="name another folder"
            )
        content = self.place.read(f"{STATES}/state-{load}.json")
        if content is None:
            raise PenstockError(
                f"{self.name}/{STATES}/state-{load}.json: is missing",
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
        return pl.scan_delta(self.destination.path, version=version, storage_options=self.options)

    @property
    def _fresh(self) -> bool:
        """Whether there is no table yet, or one of loads that brought no row."""
        return self.table is None or self.scan().collect_schema().names() == [LINEAGE[2]]

    # --- staging ------------------------------------------------------------------------------------

    def stage(self, frame: pl.DataFrame) -> None:
        if not frame.height:
            return
        if self._waiting and self._waiting[-1].schema != frame.schema:
            self._flush()
        self._waiting.append(frame)
        if sum(part.height for part in self._waiting) >= ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        frame = pl.concat(self._waiting)
        self._waiting = []
        name = f"{STAGING}/incoming-{len(self._staged):06d}.parquet"
        self.place.write_parquet(name, frame, ROW_GROUP)
        self._staged.append((name, dict(frame.schema)))
        self._rows += frame.height

    def rollback(self) -> None:
        self._waiting, self._staged, self._rows = [], [], 0
        self.place.remove_folder(STAGING)

    # --- committing ---------------------------------------------------------------------------------

    def commit(self, state: State, plan: Plan) -> Committed:
        self._flush()
        self.place.write(f"{STATES}/state-{state.load}.json", (state.model_dump_json() + "\n").encode())
        said = deltalake.CommitProperties(
            app_transactions=[deltalake.Transaction(APPLICATION, state.load)],
        )
        try:
            done = self._store(plan, said)
        except DeltaError as error:
            raise PenstockError(
                f"{self.name}: {error}", hint="is the table reachable and unlocked?"
            ) from error
        self.rollback()
        if self._state.load:
            self.place.remove(f"{STATES}/state-{self._state.load}.json")
        self._open()
        rows = self.scan().select(pl.len()).collect().item() if self.table else 0
        return Committed(*done, rows=rows)

    def _schema(self) -> dict[str, pl.DataType]:
        """With room for what is there and what comes."""
        schema = dict(self.scan().collect_schema()) if self.table else {}
        for _, kinds in self._staged:
            for name, kind in kinds.items():
                schema[name] = widened(schema[name], kind) if name in schema else kind
        return schema

    def _incoming(self, schema: dict[str, pl.DataType]) -> pl.DataFrame:
        ours = pl.Schema({n: k for n, k in schema.items() if n not in {VALID_FROM, VALID_TO}})
        return pl.concat(
            [aligned(self.place.read_parquet(name), ours) for name, _ in self._staged]
        ).with_row_index(SEQUENCE)

    def _batches(self, schema: dict[str, pl.DataType]) -> pa.RecordBatchReader:
        """Staged rows, a file at a time."""
        empty = pl.DataFrame(schema=schema).to_arrow()

        def read() -> Any:
            for name, _ in self._staged:
                yield from (
                    aligned(self.place.read_parquet(name), pl.Schema(schema))
                    .to_arrow()
                    .cast(empty.schema)
                    .to_batches()
                )

        return pa.RecordBatchReader.from_batches(empty.schema, read())

    def _write(self, rows: Any, mode: str, said: deltalake.CommitProperties, **others: Any) -> None:
        deltalake.write_deltalake(
            self.destination.path,
            rows,
            mode=mode,
            partition_by=list(self.destination.partition_by) or None,
            storage_options=self.options,
            commit_properties=said,
            **others,
        )

    def _store(self, plan: Plan, said: deltalake.CommitProperties) -> tuple[int, int, int]:
        if plan.write == "replace" and self._staged:
            schema: dict[str, pl.DataType] = {}
            for _, kinds in self._staged:
                for name, kind in kinds.items():
                    schema[name] = widened(schema[name], kind) if name in schema else kind
            self._write(self._batches(schema), "overwrite", said, schema_mode="overwrite")
            return self._rows, 0, 0
        schema = self._schema()
        if self.table is not None:
            self._widen(schema)
        if not self._staged:
            return self._nothing(plan, said)
        if plan.write == "append" and not plan.keys:
            self._write(self._batches(schema), "append", said, schema_mode="merge")
            return self._rows, 0, 0
        return self._turn(schema, plan, said) if plan.write == "scd2" else self._merge(schema, plan, said)

    def _nothing(self, plan: Plan, said: deltalake.CommitProperties) -> tuple[int, int, int]:
        """The state alone: a commit of no rows."""
        if self.table is None:
            # A table needs a column; that of lineage will be there anyhow.
            self._write(pl.DataFrame(schema={LINEAGE[2]: pl.Int64}).to_arrow(), "overwrite", said)
        else:
            empty = self.scan().head(0).collect().to_arrow()
            self._write(empty, "overwrite" if plan.write == "replace" else "append", said)
        return 0, 0, 0

    def _widen(self, schema: dict[str, pl.DataType]) -> None:
        """Write the table anew, the same rows in wider types: Delta itself widens little."""
        there = self.scan().collect_schema()
        if any(schema[name] != kind for name, kind in there.items()):
            wider = pl.Schema({name: schema[name] for name in there})
            rows = aligned(self.scan().collect(), wider).to_arrow()
            self._write(rows, "overwrite", deltalake.CommitProperties(), schema_mode="overwrite")
            self.table = deltalake.DeltaTable(self.destination.path, storage_options=self.options)

    def _merge(
        self, schema: dict[str, pl.DataType], plan: Plan, said: deltalake.CommitProperties
    ) -> tuple[int, int, int]:
        incoming = self._incoming(schema)
        unique = deduplicated(incoming, plan)
        rows = unique.drop(SEQUENCE)
        if self._fresh:
            self._write(rows.to_arrow(), "overwrite", said, schema_mode="overwrite")
            return rows.height, 0, incoming.height - rows.height
        # Which rows change anything is found here: a condition on all columns does not survive how delta-rs hands
        # predicates on.
        keys = list(plan.keys)
        there = aligned(
            self.scan().join(rows.select(keys).lazy(), on=keys, how="semi", nulls_equal=True).collect(),
            pl.Schema(schema),
        )
        meeting = met(there, unique, plan)
        if meeting is not None:
            rows = unique.filter(~pl.col(SEQUENCE).is_in(meeting.settled.implode())).drop(SEQUENCE)
        merge = self._merging(rows.to_arrow(), plan, said)
        if plan.write == "merge":
            merge = merge.when_matched_update_all()
        said_of_it = merge.when_not_matched_insert_all().execute()
        added, updated = said_of_it["num_target_rows_inserted"], said_of_it["num_target_rows_updated"]
        if not added and not updated:
            # A merge that changes nothing makes no version, and the state would be lost.
            self._write(self.scan().head(0).collect().to_arrow(), "append", said)
        return added, updated, incoming.height - added - updated

    def _merging(self, rows: Any, plan: Plan, said: deltalake.CommitProperties, more: str = "") -> Any:
        assert self.table is not None
        on = " AND ".join(f"(s.{_quoted(n)} IS NOT DISTINCT FROM t.{_quoted(n)})" for n in plan.keys)
        return self.table.merge(
            rows,
            predicate=on + more,
            source_alias="s",
            target_alias="t",
            merge_schema=True,
            commit_properties=said,
            streamed_exec=False,
        )

    def _turn(
        self, schema: dict[str, pl.DataType], plan: Plan, said: deltalake.CommitProperties
    ) -> tuple[int, int, int]:
        utc = pl.Datetime("us", "UTC")
        whole = pl.Schema({**schema, VALID_FROM: utc, VALID_TO: utc})
        incoming = self._incoming(schema)
        keys = list(plan.keys)
        now = pl.DataFrame(schema=whole)
        if not self._fresh:
            current = self.scan().filter(pl.col(VALID_TO).is_null())
            wanted = incoming.select(keys).unique().lazy()
            now = aligned(current.join(wanted, on=keys, how="semi", nulls_equal=True).collect(), whole)
        closed, added, unchanged = versions(now, incoming, plan)
        added = aligned(added, whole)
        if self._fresh:
            self._write(added.to_arrow(), "overwrite", said, schema_mode="overwrite")
            return added.height, 0, unchanged
        both = pl.concat(
            [
                aligned(closed, whole).with_columns(pl.lit(value=True).alias(CLOSES)),
                added.with_columns(pl.lit(value=False).alias(CLOSES)),
            ]
        )
        if both.is_empty():
            self._write(self.scan().head(0).collect().to_arrow(), "append", said)
            return 0, 0, unchanged
        insert = {_quoted(name): f"s.{_quoted(name)}" for name in whole}
        more = f" AND t.{VALID_TO} IS NULL AND s.{CLOSES}"
        merge = self._merging(both.to_arrow(), plan, said, more)
        merge = merge.when_matched_update(updates={VALID_TO: f"s.{VALID_TO}"})
        merge.when_not_matched_insert(updates=insert, predicate=f"NOT s.{CLOSES}").execute()
        return added.height, closed.height, unchanged

    def compact(self) -> int:
        """Small files become fewer. Those that they replace stay until no version of the last week needs them."""
        if self.table is None:
            return 0
        done = self.table.optimize.compact()
        self.table.vacuum(dry_run=False)
        return int(done["numFilesRemoved"]) - int(done["numFilesAdded"])


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
