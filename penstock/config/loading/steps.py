"""What is made of rows on the way, or afterwards inside the warehouse.

Expressions are SQL's, as polars reads them: they see the columns of a row and nothing else.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from penstock.config.base import Scalar, View
from penstock.config.loading.spans import duration
from penstock.config.tables import ColumnType

__all__ = [
    "AfterStep",
    "Aggregate",
    "Cast",
    "Deduplicate",
    "Derive",
    "Drop",
    "Fill",
    "Filter",
    "Input",
    "Join",
    "Keep",
    "MapCodes",
    "Pivot",
    "Rename",
    "Sql",
    "Step",
    "Union",
    "Unpivot",
    "Window",
    "Windowed",
]

Names = Annotated[tuple[str, ...], Field(min_length=1)]
Duration = Annotated[timedelta, BeforeValidator(duration)]


# --- row by row -------------------------------------------------------------------------------------


class Rename(View):
    """Other names for columns: from → to."""

    op: Literal["rename"]
    columns: dict[str, str]


class Drop(View):
    """Leave columns out."""

    op: Literal["drop"]
    columns: Names


class Keep(View):
    """Leave all other columns out."""

    op: Literal["keep"]
    columns: Names


class MapCodes(View):
    """Words for codes. A missing value stays missing."""

    op: Literal["map"]
    column: str
    codes: dict[str, Scalar | None]  # the code as text → the word
    into: str | None = None  # a column of its own; in place without
    unmapped: Literal["keep", "null", "default", "quarantine"] = "quarantine"
    default: Scalar | None = None


class Fill(View):
    """Values for missing ones."""

    op: Literal["fill"]
    columns: dict[str, Scalar]


class Cast(View):
    """Other types for columns, by a contract's words and rules."""

    op: Literal["cast"]
    columns: dict[str, ColumnType]
    on_error: Literal["quarantine", "null", "fail"] = "quarantine"


class Filter(View):
    """Keep rows for which an expression is true; the others are counted."""

    op: Literal["filter"]
    where: str


class Derive(View):
    """New columns, or others in the place of old ones: name → expression. All see the columns from before the step."""

    op: Literal["derive"]
    columns: dict[str, str]


class Join(View):
    """Columns of an input, found by keys."""

    op: Literal["join"]
    input: str
    on: Annotated[dict[str, str] | tuple[str, ...], Field(min_length=1)]  # names, or ours → the input's
    how: Literal["left", "inner", "semi", "anti", "asof"] = (
        "left"  # asof: the latest row of the input not after ours
    )
    columns: tuple[str, ...] = ()  # of the input; all without any
    suffix: str = "_right"  # for names that are there already
    validate_keys: Literal["m:1", "m:m"] = "m:1"  # m:1: keys are unique in the input, so no row is doubled
    tolerance: Duration | Annotated[float, Field(ge=0)] | None = None  # asof: no older than this


# --- all rows at once -------------------------------------------------------------------------------


class Deduplicate(View):
    """One row for each key."""

    op: Literal["deduplicate"]
    keys: Names
    order_by: str | None = None  # the row with the largest is kept; without it, the first
    keep: Literal["first", "last"] = "first"


class Aggregate(View):
    """One row for each group."""

    op: Literal["aggregate"]
    by: tuple[str, ...] = ()
    columns: Annotated[
        dict[str, str], Field(min_length=1)
    ]  # name → expression: sum(x), count(*), avg(x), max(x)


class Windowed(View):
    """A function over the rows around a row."""

    function: Literal[
        "row_number",
        "rank",
        "lag",
        "lead",
        "cumulative_sum",
        "rolling_sum",
        "rolling_mean",
        "rolling_min",
        "rolling_max",
    ]
    column: str | None = None  # all but row_number and rank
    rows: Annotated[int, Field(ge=1)] = 1  # lag and lead: how far; rolling: how many, this one included


class Window(View):
    """New columns from the rows around each row."""

    op: Literal["window"]
    partition_by: tuple[str, ...] = ()
    order_by: Names
    columns: Annotated[dict[str, Windowed], Field(min_length=1)]


class Union(View):
    """The rows of an input, too. Columns that one side lacks are missing there."""

    op: Literal["union"]
    input: str


class Pivot(View):
    """A column for each of some declared values."""

    op: Literal["pivot"]
    by: Names  # one row for each
    column: str
    values: Annotated[dict[str, str], Field(min_length=1)]  # the value as text → the new column
    of: str
    aggregate: Literal["first", "sum", "mean", "min", "max", "count"] = "first"


class Unpivot(View):
    """A row for each of some columns."""

    op: Literal["unpivot"]
    columns: Names
    name: str = "name"
    value: str = "value"


class Sql(View):
    """A query in DuckDB's SQL over ``rows`` and the inputs by their names. It sees no file and no network."""

    op: Literal["sql"]
    query: str


Step = Annotated[
    Rename
    | Drop
    | Keep
    | MapCodes
    | Fill
    | Cast
    | Filter
    | Derive
    | Join
    | Deduplicate
    | Aggregate
    | Window
    | Union
    | Pivot
    | Unpivot
    | Sql,
    Field(discriminator="op"),
]


class Input(View):
    """A table to join with: Parquet, CSV, JSON lines (a path or a glob), a Delta table, or a table of a DuckDB file."""

    path: str
    table: str | None = None  # of a DuckDB file


class AfterStep(View):
    """A table or view made anew inside the warehouse after each load, by a query in the warehouse's own SQL."""

    table: str  # name, or schema.name
    query: str
    kind: Literal["table", "view"] = "table"
