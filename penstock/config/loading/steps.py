"""What is made of rows on the way, or afterwards inside the warehouse.

Expressions are SQL's, as polars reads them: they see the columns of a row and nothing else. docs/transformation.md has an
example of every step.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

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


def _as_text(codes: Any) -> Any:
    """Codes as a column of text would have them."""
    if not isinstance(codes, dict):
        return codes
    if any(isinstance(code, bool) for code in codes):
        raise ValueError(
            "YAML takes yes, no, on, off, true and false for truth values; write such codes in quotes"
        )
    return {str(code): word for code, word in codes.items()}


def _null(word: Any) -> Any:
    """What YAML reads where ``null`` is written as a word."""
    return "null" if word is None else word


# --- row by row -------------------------------------------------------------------------------------


class Rename(View):
    """Other names for columns: from → to."""

    op: Literal["rename"]
    columns: Annotated[dict[str, str], Field(min_length=1)]


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
    codes: Annotated[dict[str, Scalar | None], BeforeValidator(_as_text), Field(min_length=1)]  # code → word
    into: str | None = None  # a column of its own; in place without
    # Of a code that is not among them; `default` alone says enough.
    unmapped: Annotated[Literal["keep", "null", "default", "quarantine"], BeforeValidator(_null)] = (
        "quarantine"
    )
    default: Scalar | None = None

    @model_validator(mode="before")
    @classmethod
    def _default_says_enough(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("default") is not None and "unmapped" not in given:
            return {**given, "unmapped": "default"}
        return given

    @model_validator(mode="after")
    def _default_is_given_or_not(self) -> Self:
        if (self.unmapped == "default") != (self.default is not None):
            raise ValueError(
                "`default` is the word for codes that are not mapped; it goes with `unmapped: default`"
            )
        return self


class Fill(View):
    """Values for missing ones."""

    op: Literal["fill"]
    columns: Annotated[dict[str, Scalar], Field(min_length=1)]


class Cast(View):
    """Other types for columns, by a contract's words and rules."""

    op: Literal["cast"]
    columns: Annotated[dict[str, ColumnType], Field(min_length=1)]
    on_error: Annotated[Literal["quarantine", "null", "fail"], BeforeValidator(_null)] = "quarantine"


class Filter(View):
    """Keep rows for which an expression is true; the others are counted."""

    op: Literal["filter"]
    where: str


class Derive(View):
    """New columns, or others in the place of old ones: name → expression. All see the columns from before the step."""

    op: Literal["derive"]
    columns: Annotated[dict[str, str], Field(min_length=1)]


class Join(View):
    """Columns of an input, found by keys."""

    op: Literal["join"]
    input: str
    # Names, or ours → the input's. asof: the last is the one that is compared, those before it must be equal.
    on: Annotated[dict[str, str] | tuple[str, ...], Field(min_length=1)]
    how: Literal["left", "inner", "semi", "anti", "asof"] = (
        "left"  # asof: the latest row of the input not after ours
    )
    columns: tuple[str, ...] = ()  # of the input; all without any
    suffix: Annotated[str, Field(min_length=1)] = "_right"  # for names that are there already
    validate_keys: Literal["m:1", "m:m"] = "m:1"  # m:1: keys are unique in the input, so no row is doubled
    tolerance: Duration | Annotated[float, Field(ge=0)] | None = None  # asof: no older than this

    @model_validator(mode="before")
    @classmethod
    def _on_is_a_word(cls, given: Any) -> Any:
        # YAML reads `on` as true.
        return (
            {"on" if key is True else key: value for key, value in given.items()}
            if isinstance(given, dict)
            else given
        )

    @model_validator(mode="after")
    def _goes_with_how(self) -> Self:
        if self.tolerance is not None and self.how != "asof":
            raise ValueError("`tolerance` goes with `how: asof`")
        if self.columns and self.how in {"semi", "anti"}:
            raise ValueError(f"`how: {self.how}` keeps or leaves out rows and adds no `columns`")
        return self


# --- all rows at once -------------------------------------------------------------------------------


class Deduplicate(View):
    """One row for each key; what is missing equals what is missing."""

    op: Literal["deduplicate"]
    keys: Names
    order_by: str | None = None  # a missing value is the smallest
    keep: Literal["first", "last"] | None = None  # last by order_by; without that, the first that came


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
    column: str | None = None  # of all but row_number and rank, which go by `order_by`
    rows: Annotated[int, Field(ge=1)] | None = (
        None  # lag, lead: how far (1); rolling: how many, this one included
    )
    # rolling: all rows whose `order_by` is no more than this below that of this row, and not above it
    within: Duration | Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _goes_with_function(self) -> Self:
        counts = self.function in {"row_number", "rank"}
        rolls = self.function.startswith("rolling")
        if counts != (self.column is None):
            raise ValueError(
                f"`{self.function}` {'goes by `order_by` and has no' if counts else 'needs'} `column`"
            )
        if rolls and (self.rows is None) == (self.within is None):
            raise ValueError(f"`{self.function}` needs one of `rows` and `within`, and only one")
        if not rolls and self.within is not None:
            raise ValueError("`within` goes with rolling functions")
        if not rolls and self.function not in {"lag", "lead"} and self.rows is not None:
            raise ValueError(f"`{self.function}` has no `rows`")
        return self


class Window(View):
    """New columns from the rows around each row."""

    op: Literal["window"]
    partition_by: tuple[str, ...] = ()
    order_by: Names
    descending: bool = False
    columns: Annotated[dict[str, Windowed], Field(min_length=1)]

    @model_validator(mode="after")
    def _within_needs_one_order(self) -> Self:
        if any(spec.within is not None for spec in self.columns.values()) and (
            len(self.order_by) > 1 or self.descending
        ):
            raise ValueError("`within` is measured along one column of `order_by`, ascending")
        return self


class Union(View):
    """The rows of an input, too. Columns that one side lacks are missing there."""

    op: Literal["union"]
    input: str


class Pivot(View):
    """A column for each of some declared values."""

    op: Literal["pivot"]
    by: Names  # one row for each
    column: str
    # The value as text → the new column; rows of another value are in none. Declared, so that every load has the same.
    values: Annotated[dict[str, str], BeforeValidator(_as_text), Field(min_length=1)]
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
    """A table to join with: files of any kind that a load can read, a Delta table, or a table of a database file."""

    path: (
        str  # a file, a glob, a folder of Parquet files; here, or for files at any address that fsspec knows
    )
    table: str | None = None  # of a DuckDB or SQLite file
    options: dict[str, str | int | bool] = {}  # for fsspec; secrets as ${secret:NAME}


class AfterStep(View):
    """A table or view made anew inside the warehouse after each load, by a query in the warehouse's own SQL."""

    table: str  # name, or schema.name
    query: str
    kind: Literal["table", "view"] = "table"
