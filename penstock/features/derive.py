"""Derived columns: stateless, declared in conf/, the same for one row as for a million.

Numbers are single precision before they are derived from, since the exported graph computes in single
precision too: both sides then divide, multiply and bin the very same values.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add, mul
from typing import Any

import polars as pl

from penstock.config import (
    Bins,
    Cross,
    DatePart,
    Derived,
    Difference,
    Log,
    Product,
    Ratio,
    Sum,
)
from penstock.errors import PenstockError

__all__ = ["CROSS_SEPARATOR", "derive", "expression", "inputs"]

CROSS_SEPARATOR = " × "


def inputs(derived: Derived) -> tuple[str, ...]:
    """The columns that a derived column is made from."""
    match derived:
        case Ratio():
            return (derived.numerator, derived.denominator)
        case Difference():
            return (derived.left, derived.right)
        case Sum() | Product() | Cross():
            return derived.columns
        case Log() | Bins() | DatePart():
            return (derived.column,)


def _ratio(derived: Ratio) -> pl.Expr:
    denominator = pl.col(derived.denominator)
    return pl.when(denominator != 0).then(pl.col(derived.numerator) / denominator)


def _log(derived: Log) -> pl.Expr:
    column = pl.col(derived.column)
    return pl.when(column > -1).then(column.log1p())


def _bins(derived: Bins) -> pl.Expr:
    column = pl.col(derived.column)
    return reduce(add, [(column >= pl.lit(edge, pl.Float32)).cast(pl.Float32) for edge in derived.edges])


def _cross(derived: Cross) -> pl.Expr:
    return pl.concat_str(derived.columns, separator=CROSS_SEPARATOR, ignore_nulls=False)


def _date_part(derived: DatePart) -> pl.Expr:
    return getattr(pl.col(derived.column).dt, derived.part)()  # type: ignore[no-any-return]


_EXPRESSIONS: dict[type, Callable[[Any], pl.Expr]] = {
    Ratio: _ratio,
    Difference: lambda derived: pl.col(derived.left) - pl.col(derived.right),
    Sum: lambda derived: reduce(add, map(pl.col, derived.columns)),
    Product: lambda derived: reduce(mul, map(pl.col, derived.columns)),
    Log: _log,
    Bins: _bins,
    Cross: _cross,
    DatePart: _date_part,
}


def expression(derived: Derived) -> pl.Expr:
    """The polars expression of a derived column: Float32, or String for a cross."""
    kind = pl.String if isinstance(derived, Cross) else pl.Float32
    return _EXPRESSIONS[type(derived)](derived).cast(kind).alias(derived.name)


def derive(frame: pl.DataFrame, derived: Sequence[Derived]) -> pl.DataFrame:
    """Add derived columns in the order in which they are declared; later ones may use earlier ones.

    Args:
        frame: Numbers as Float32, categories as String, dates as Date or Datetime; null where missing.
        derived: What to add.

    Raises:
        PenstockError: A derived column names a column that is not there, or one of the wrong type.
    """
    for item in derived:
        _check_inputs(frame, item)
        frame = frame.with_columns(expression(item))
    return frame


def _check_inputs(frame: pl.DataFrame, derived: Derived) -> None:
    for name in inputs(derived):
        if name not in frame.columns:
            near = difflib.get_close_matches(name, frame.columns, n=1)
            raise PenstockError(
                f"derive: {derived.name!r} needs the column {name!r}, which is not there",
                hint=f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(frame.columns)}",
            )
        kind = frame.schema[name]
        wanted, fits = {
            Cross: ("a category", kind == pl.String),
            DatePart: ("a date", kind.is_temporal()),
        }.get(type(derived), ("a number", kind.is_numeric()))
        if not fits:
            raise PenstockError(
                f"derive: {derived.name!r} ({derived.op}) needs {name!r} to be {wanted}; it is {kind}",
                hint="name another column, or another type for it in the contract",
            )
        if isinstance(derived, DatePart) and derived.part == "hour" and kind == pl.Date:
            raise PenstockError(f"derive: {derived.name!r}: {name!r} is a date and has no hour")
