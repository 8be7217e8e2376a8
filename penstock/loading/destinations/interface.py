"""What every kind of table can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from penstock.loading.state import State

if TYPE_CHECKING:
    import polars as pl

    from penstock.config.loading import AfterStep
    from penstock.config.loading.load import WriteMode

__all__ = ["VALID_FROM", "VALID_TO", "Committed", "Plan", "Table"]

# Of `scd2`: a row was so from VALID_FROM (inclusive) to VALID_TO (exclusive; null: still is).
VALID_FROM = "_valid_from"
VALID_TO = "_valid_to"


@dataclass(frozen=True)
class Plan:
    """How staged rows enter the table.

    Attributes:
        write: append adds them, replace puts them in the place of all, merge puts each in the place of the row with
            its keys, scd2 closes that row and adds another where any value (but lineage) differs.
        keys: What identifies a row. With append: rows whose keys are there already, or repeat an earlier staged row,
            are left out.
        order: The column that says which of two rows of the same keys is the later, and wins; among equals, or
            without it, the one staged later does. A staged row never replaces one that is later by this column.
        moment: scd2: when versions begin and end if ``order`` is no date or datetime: of the load, in UTC.
    """

    write: WriteMode
    keys: tuple[str, ...] = ()
    order: str | None = None
    moment: object = None  # datetime, UTC


@dataclass(frozen=True)
class Committed:
    """What a commit did.

    Attributes:
        added: Rows that are new.
        updated: Rows replaced (merge), or versions closed (scd2).
        unchanged: Staged rows that changed nothing.
        rows: Rows in the table afterwards.
    """

    added: int
    updated: int
    unchanged: int
    rows: int


class Table(ABC):
    """A table that loads write to. Opening finishes or undoes what a killed load left.

    Two loads never write to one table at once: the engine holds a lock.
    """

    name: str  # for people: the path, or the database without its password and the table

    @property
    @abstractmethod
    def state(self) -> State:
        """As of the last commit; ``State()`` for a table that is not there yet."""

    @abstractmethod
    def stage(self, frame: pl.DataFrame) -> None:
        """Put rows where the next commit finds them; nobody else sees them.

        ``frame`` has flat columns, those of lineage included. Columns that the table lacks are added by the commit,
        with null for older rows; columns that ``frame`` lacks are null. A type that differs from the table's is one
        that the table's is widened to (integer → number → text).
        """

    @abstractmethod
    def commit(self, state: State, plan: Plan) -> Committed:
        """Make staged rows part of the table, and ``state`` its state: both or neither, whatever happens.

        Nothing staged, and ``plan.write`` other than replace: the state alone.
        """

    @abstractmethod
    def rollback(self) -> None:
        """Forget staged rows."""

    @abstractmethod
    def scan(self) -> pl.LazyFrame:
        """The table's rows as of the last commit, in no particular order."""

    def after(self, step: AfterStep) -> int:  # noqa: ARG002  (for those that have a warehouse)
        """Make a table or view inside the warehouse; returns its rows.

        Raises:
            PenstockError: This kind of table has no warehouse around it, or the query is wrong.
        """
        from penstock.errors import PenstockError

        raise PenstockError(
            f"{self.name}: `after` needs a warehouse: duckdb or postgres",
            hint="write to one of them, or make it in `steps`",
        )

    def compact(self) -> int:
        """Put small files together and remove what no reader needs; returns how many files are fewer."""
        return 0

    def close(self) -> None:  # noqa: B027  (many have nothing to let go of)
        """Let go of connections and files. Staged rows are forgotten."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
