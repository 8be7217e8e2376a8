"""Columns between steps: whether they are there, and that each is of a type that a contract knows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import polars as pl

from penstock.config.tables import ColumnType
from penstock.contract import POLARS_TYPES
from penstock.loading.state import LINEAGE
from penstock.loading.steps_expressions import StepError, near

__all__ = ["columns", "free", "known", "settled", "word"]


def columns(rows: pl.LazyFrame) -> list[str]:
    """Their names."""
    return rows.collect_schema().names()


def known(rows: pl.LazyFrame, names: Iterable[str], of: str = "") -> list[str]:
    """The names, if all are there.

    Raises:
        StepError: One is not.
    """
    there = columns(rows)
    listed = [name for name in there if name not in LINEAGE]
    named = list(names)
    for name in named:
        if name not in there:
            raise StepError(
                f"{of}there is no column {name!r}",
                near(name, listed) or f"there are: {', '.join(listed[:20])}",
            )
    return named


def free(names: Iterable[str]) -> list[str]:
    """The names, if none is one of lineage: those say where a row is from, and no step changes that.

    Raises:
        StepError: One is.
    """
    named = list(names)
    for name in named:
        if name in LINEAGE:
            raise StepError(f"{name!r} says where a row is from and cannot be changed", "choose another name")
    return named


def word(kind: pl.DataType) -> ColumnType | str:
    """What a person calls a type."""
    # Of category and text, which are the same to polars, the latter.
    return {known_kind: name for name, known_kind in POLARS_TYPES.items()}.get(kind, str(kind).lower())


def settled(rows: pl.LazyFrame, names: Sequence[str] | None = None, of: str = "") -> pl.LazyFrame:
    """Columns in the types of a contract, whatever an expression, a file or a query gave; no number is infinite.

    Args:
        rows: Any.
        names: Which columns; all without it.
        of: What they are of, for an error.

    Raises:
        StepError: A column is of a type that no table of a load can hold.
    """
    schema = rows.collect_schema()
    named = schema.names() if names is None else names
    return rows.with_columns(
        [cast for name in named if (cast := _settled(name, schema[name], of)) is not None]
    )


def _settled(name: str, kind: pl.DataType, of: str) -> pl.Expr | None:
    column = pl.col(name)
    if kind.is_float() or (isinstance(kind, pl.Decimal) and kind.scale):
        number = column.cast(pl.Float64)
        return pl.when(number.is_finite()).then(number).alias(name)
    if isinstance(kind, pl.Datetime):
        moment = column if kind.time_zone else column.dt.replace_time_zone("UTC")
        if kind == POLARS_TYPES["datetime"]:
            return None
        return moment.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    if kind in POLARS_TYPES.values():
        return None
    if kind.is_integer() or isinstance(kind, pl.Decimal):
        return column.cast(pl.Int64)
    if isinstance(kind, pl.Categorical | pl.Enum | pl.Null):
        return column.cast(pl.String)
    if isinstance(kind, pl.Duration):
        hint = "as a number of microseconds: CAST(later - earlier AS BIGINT)"
    else:
        hint = "cast it, or leave it out"
    raise StepError(f"{of}{name!r} is {str(kind).lower()}, which no column of a table can be", hint)
