"""SQL databases."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from penstock.config.base import View

__all__ = ["DatabaseSource"]


class DatabaseSource(View):
    """A table of a database, or a query."""

    kind: Literal["database"]
    url: str  # postgresql://, mysql://, mariadb://, sqlite:///path, duckdb:///path; secrets as ${secret:NAME}
    table: str | None = None  # name, or schema.name; a part with a dot in it "in quotes"
    query: str | None = None
    columns: tuple[str, ...] = ()  # of a table; all without any
    # PostgreSQL is read over several connections at once, by ranges of an integer, date or datetime column.
    # Their rows are in no order: even with a cursor, nothing is stored before all are read.
    partition: str | None = None
    partitions: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _a_table_or_a_query(self) -> Self:
        if (self.table is None) == (self.query is None):
            raise ValueError("one of `table` and `query` is needed, and only one")
        if self.columns and self.query is not None:
            raise ValueError("`columns` goes with `table`; a query names its own")
        if self.partitions > 1 and self.partition is None:
            raise ValueError("`partitions` needs `partition`, the column to divide by")
        return self
