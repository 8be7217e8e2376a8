"""Values of a database as columns that lose nothing.

A column of a chunk has the database's type where all its values have it, and is text where one has not: an
infinite date, a number that is none, a word among SQLite's integers, a day of zeros in MySQL. The contract then
says of each row whether it will do, by the value that was there.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import polars as pl

__all__ = ["as_found", "from_arrow", "from_python", "texts"]

EXACT = 1 << 53  # above it not every integer is a float
DIGITS = 38  # of a decimal, at most
EPOCH = date(1970, 1, 1)
# Days since 1970 of the years 1 to 9999, outside which neither Python nor the contract's text knows a date.
FIRST_DAY, LAST_DAY = (date.min - EPOCH).days, (date.max - EPOCH).days
DAY = 86_400_000_000


# --- from Arrow -------------------------------------------------------------------------------------


def from_arrow(batch: Any) -> pl.DataFrame:
    """A record batch as a frame, its columns of the types that a contract knows."""
    frame = pl.from_arrow(batch, rechunk=False)
    assert isinstance(frame, pl.DataFrame)
    return frame


def as_found(frame: pl.DataFrame, targets: Sequence[pl.DataType | None]) -> pl.DataFrame:
    """Columns in their targets; as text what fits no target or no calendar."""
    changed: list[pl.Series] = []
    for column, target in zip(frame, targets, strict=True):
        kind = column.dtype
        if target is not None and kind != target:
            cast = column.cast(target, strict=False)
            if cast.null_count() == column.null_count():
                changed.append(cast)
        elif kind in (pl.Date, pl.Datetime) and not _in_calendar(column):
            changed.append(_beyond(column))
    return frame.with_columns(changed) if changed else frame


def _limits(kind: pl.DataType) -> tuple[int, int]:
    """The least and the largest number behind a date or date-time of the years 1 to 9999."""
    if kind == pl.Date:
        return FIRST_DAY, LAST_DAY
    assert isinstance(kind, pl.Datetime)
    a_day = {"ms": 86_400_000, "us": DAY, "ns": DAY * 1000}[kind.time_unit]
    return FIRST_DAY * a_day, (LAST_DAY + 1) * a_day - 1


def _in_calendar(column: pl.Series) -> bool:
    physical = column.to_physical()
    least, largest = physical.min(), physical.max()
    if not isinstance(least, int) or not isinstance(largest, int):
        return True
    first, last = _limits(column.dtype)
    return first <= least and largest <= last


def _beyond(column: pl.Series) -> pl.Series:
    """Dates as text, some of them in no calendar; polars would panic on those."""
    first, last = _limits(column.dtype)
    physical = column.to_physical()
    inside = physical.is_between(first, last)
    usual = pl.select(pl.when(inside).then(physical)).to_series().cast(column.dtype)
    form = "iso" if column.dtype == pl.Date else "iso:strict"
    shown = usual.dt.to_string(form)
    strange = {
        number: _strange(number, column.dtype) for number in physical.filter(~inside).unique().to_list()
    }
    told = physical.replace_strict(strange, default=None, return_dtype=pl.String)
    return pl.select(pl.coalesce(shown, told)).to_series().alias(column.name)


# The ends of PostgreSQL's and of DuckDB's calendar as they come: the former's, counted from 2000, go over the
# edge of the number when they are counted from 1970.
ENDS = {
    "date": {
        "infinity": {(1 << 31) - 1, -(1 << 31) + 10956},
        "-infinity": {-(1 << 31) + 10957, -(1 << 31) + 1, -(1 << 31)},
    },
    "datetime": {
        "infinity": {(1 << 63) - 1, -(1 << 63) + 10957 * DAY - 1},
        "-infinity": {-(1 << 63) + 10957 * DAY, -(1 << 63) + 1},
    },
}


def _strange(number: int, kind: pl.DataType) -> str:
    for word, numbers in ENDS["date" if kind == pl.Date else "datetime"].items():
        if number in numbers:
            return word
    import numpy as np

    found: Any
    if kind == pl.Date:
        found = np.datetime64(number, "D")
    else:
        assert isinstance(kind, pl.Datetime)
        found = np.datetime64(number, kind.time_unit)
        if kind.time_unit == "us" and number < -(1 << 62):
            # Nothing is that long ago: a moment after the year 294246 that went over the edge.
            found = np.datetime64((number + (1 << 64)) // 1_000_000, "s")
    # ISO 8601 has the year -43 as -0043.
    return re.sub(r"^-(\d+)", lambda year: f"-{year[1]:0>4}", str(found))


# --- from Python ------------------------------------------------------------------------------------


def from_python(name: str, values: Sequence[Any], empty: pl.DataType) -> pl.Series:
    """A column of what a driver gave.

    Args:
        name: Of the column.
        values: Of any type, None where there is no value.
        empty: Its type if no value is there at all.
    """
    kinds = {*map(type, values)} - {type(None)}
    column = _typed(name, values, kinds, empty)
    if column is None:
        return pl.Series(name, texts(values), dtype=pl.String)
    return column


def _typed(name: str, values: Sequence[Any], kinds: set[type], empty: pl.DataType) -> pl.Series | None:
    """The column in its type; None if it has to be text."""
    if not kinds:
        return pl.Series(name, values, dtype=empty)
    if kinds == {str}:
        return pl.Series(name, values, dtype=pl.String)
    if kinds == {bytes}:
        return pl.Series(name, values, dtype=pl.Binary)
    if kinds == {bool}:
        return pl.Series(name, values, dtype=pl.Boolean)
    if kinds == {int}:
        return _integers(name, values)
    if kinds == {float}:
        return pl.Series(name, values, dtype=pl.Float64)
    if kinds == {int, float}:
        exact = all(type(value) is not int or -EXACT <= value <= EXACT for value in values)
        return pl.Series(name, values, dtype=pl.Float64, strict=False) if exact else None
    if kinds <= {Decimal, int} - {bool}:
        return _decimals(name, values)
    if kinds == {date}:
        return pl.Series(name, values, dtype=pl.Date)
    if kinds == {datetime}:
        zoned = {value.tzinfo is not None for value in values if value is not None}
        if zoned == {False}:
            return pl.Series(name, values, dtype=pl.Datetime("us"))
        if zoned == {True}:
            return pl.Series(name, [_utc(value) for value in values], dtype=pl.Datetime("us", "UTC"))
    return None


def _integers(name: str, values: Sequence[Any]) -> pl.Series | None:
    try:
        return pl.Series(name, values, dtype=pl.Int64)
    except (OverflowError, TypeError, pl.exceptions.PolarsError):
        pass
    try:
        return pl.Series(name, values, dtype=pl.UInt64)
    except (OverflowError, TypeError, pl.exceptions.PolarsError):
        return None


def _decimals(name: str, values: Sequence[Any]) -> pl.Series | None:
    exact = [None if value is None else Decimal(value) for value in values]
    parts = [value.as_tuple() for value in exact if value is not None]
    # NaN and infinity have a letter for an exponent.
    exponents = [part.exponent for part in parts if isinstance(part.exponent, int)]
    if len(exponents) < len(parts):
        return None
    scale = max(0, -min(exponents))
    whole = max(len(part.digits) + int(part.exponent) for part in parts)
    if max(whole, 1) + scale > DIGITS:
        return None
    return pl.Series(name, exact, dtype=pl.Decimal(DIGITS, scale))


def _utc(value: datetime | None) -> datetime | None:
    from datetime import UTC

    return None if value is None else value.astimezone(UTC)


def texts(values: Sequence[Any]) -> list[str | None]:
    """Each value as text."""
    return [None if value is None else _text(value) for value in values]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return str(pl.Series([value]).dt.to_string("iso").item())
    if isinstance(value, Decimal):
        return f"{value:f}" if value.is_finite() else str(value)
    if isinstance(value, dict | list | tuple | set | frozenset):
        return json.dumps(list(value) if isinstance(value, set | frozenset | tuple) else value, default=_text, ensure_ascii=False)  # fmt: skip
    return str(value)
