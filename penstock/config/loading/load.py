"""A load: from where, to where, how often the same row, and what if its shape changes."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from penstock.config.base import Scalar, Share, View
from penstock.config.loading.database import DatabaseSource
from penstock.config.loading.destinations import Destination
from penstock.config.loading.files import FilesSource
from penstock.config.loading.kafka import KafkaSource
from penstock.config.loading.monitoring import Monitor
from penstock.config.loading.rest import RestSource
from penstock.config.loading.spans import duration
from penstock.config.loading.steps import AfterStep, Input, Step
from penstock.config.tables import Contract

__all__ = ["Duration", "Evolution", "Incremental", "Load", "LoadSource", "Policy", "WriteMode"]

LoadSource = Annotated[FilesSource | DatabaseSource | RestSource | KafkaSource, Field(discriminator="kind")]
WriteMode = Literal["append", "replace", "merge", "scd2"]
Policy = Literal["evolve", "freeze", "discard_row", "discard_value"]

Duration = Annotated[timedelta, BeforeValidator(duration)]


class Incremental(View):
    """Which rows a load asks for, when the table has some already."""

    cursor: str  # a column that grows: a number that counts up, or the time of the last change
    initial: Scalar | None = None  # the first load begins here; without it, at the beginning
    lag: Duration | Annotated[float, Field(ge=0)] = timedelta(
        0
    )  # rows may turn up so late: read again from cursor − lag
    # No two rows have the same cursor and none comes late: rows are asked for that are strictly above.
    strictly_increasing: bool = False


class Evolution(View):
    """What becomes of rows whose shape is not that of the table.

    evolve: the table changes. freeze: the load fails, before anything is written. discard_row: the row goes to
    quarantine. discard_value: the value is left out, and counted.
    """

    new_column: Policy = "evolve"
    missing_column: Literal["evolve", "freeze"] = "evolve"  # evolve: its values are missing from now on
    # Of a value that is not of its column's type. auto: a column whose type was found, not declared, goes from
    # integer to number; anything else is discard_row. evolve: integer → number → text, date → datetime → text.
    type_change: Policy | Literal["auto"] = "auto"
    columns: dict[str, Policy] = {}  # deviations, by column: what changes about it


class LoadContract(Contract):
    """A contract whose default puts up with some bad rows: what was rejected is kept, counted and alerted on."""

    max_quarantine_share: Share = 0.05


class Load(View):
    """Everything that is chosen for one load."""

    source: LoadSource
    destination: Destination
    write: WriteMode = "append"
    keys: tuple[str, ...] = ()  # columns that together identify a row
    incremental: Incremental | None = None
    contract: LoadContract = LoadContract()
    # So few rejected rows fail no load: of an increment of three, one bad row is a third.
    tolerated_rejects: Annotated[int, Field(ge=0)] = 20
    evolution: Evolution = Evolution()
    steps: tuple[Step, ...] = ()  # before it is stored
    inputs: dict[str, Input] = {}  # tables that steps join with, by name
    after: tuple[AfterStep, ...] = ()  # inside the warehouse, once it is stored
    monitor: Monitor = Monitor()
    batch_rows: Annotated[int, Field(ge=1)] = 100_000  # in memory at a time
    commit_rows: Annotated[int, Field(ge=1)] = (
        1_000_000  # stored at the latest after so many, where the source can go on from there
    )

    @model_validator(mode="after")
    def _unique_needs_the_table(self) -> Self:
        named = [name for name, column in self.contract.columns.items() if column.unique]
        if self.contract.unique or named:
            raise ValueError(
                "`contract.unique` would be asked of some rows at a time only; name the columns in `keys`, and a row "
                "that repeats them is left out (append) or takes the place of the other (merge)"
            )
        return self

    @model_validator(mode="after")
    def _nothing_is_lost_or_doubled(self) -> Self:
        if self.write in {"merge", "scd2"} and not self.keys:
            raise ValueError(f"`write: {self.write}` needs `keys`, the columns that identify a row")
        if self.incremental is not None:
            if self.write == "replace":
                raise ValueError("`write: replace` reads everything each time; it goes with no `incremental`")
            if not self.keys and not self.incremental.strictly_increasing:
                raise ValueError(
                    "`incremental` reads rows at its boundary again and knows them by `keys`: name the columns that "
                    "identify a row, or say `strictly_increasing: true` if no two rows have the same cursor and none is late"
                )
            if self.incremental.strictly_increasing and self.incremental.lag:
                raise ValueError("`lag` is for rows that come late; with `strictly_increasing` none does")
        return self
