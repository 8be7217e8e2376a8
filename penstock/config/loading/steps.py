"""What is made of rows on the way, or afterwards inside the warehouse."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from penstock.config.base import View

__all__ = ["AfterStep", "Input", "Step"]


class SqlStep(View):
    """A query (DuckDB's SQL) over ``rows`` and the other inputs by their names."""

    op: Literal["sql"]
    query: str


class FilterStep(View):
    """Keep rows for which an expression is true."""

    op: Literal["filter"]
    where: str


class Input(View):
    """A table to join with: the path of Parquet files, or of a Delta table."""

    path: str


class AfterStep(View):
    """A table or view made anew inside the warehouse after each load, by a query in the warehouse's own SQL."""

    table: str  # name, or schema.name
    query: str
    kind: Literal["table", "view"] = "table"


Step = Annotated[SqlStep | FilterStep, Field(discriminator="op")]
