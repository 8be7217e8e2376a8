"""One value of JSON as a column's type: what ``penstock.contract`` makes of a column, without polars.

A test holds the two together over random values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

from penstock.config import Column

__all__ = ["MISSING", "UNFIT", "WHITE", "Check", "checker", "shown"]

MISSING = None


class _Unfit:
    """There, and not of the type."""


UNFIT = _Unfit()

TRUE = {"true", "t", "yes", "y", "1"}
FALSE = {"false", "f", "no", "n", "0"}
# What Unicode calls white space. Python's own strip() takes four control characters besides.
WHITE = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
DAY = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})", re.ASCII)
MOMENT = re.compile(
    r"(\d{4})-(\d{1,2})-(\d{1,2})(?:[T ](\d{1,2}):(\d{1,2})(?::(\d{1,2})(?:\.(\d{1,9}))?)?(?:[zZ]|([+-])(\d\d):?(\d\d))?)?",
    re.ASCII,
)
INT64 = 1 << 63
EXACT = 1 << 53  # whole numbers up to here are themselves as doubles
EPOCH = date(1970, 1, 1)
SHOWN = 60  # characters of a value in a message

# A value → it, typed; MISSING; or UNFIT.
Typed = Callable[[Any], Any]
# A value → what the model takes, and None; or anything, and what is wrong with it.
Check = Callable[[Any], tuple[Any, str | None]]


def shown(value: Any) -> str:
    """A value in a message."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = _text(value)
    return f"'{text[:SHOWN]}…'" if len(text) > SHOWN else f"'{text}'"


def _text(value: Any) -> str:
    """A scalar as polars writes it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and math.isfinite(value):
        written = repr(value)
        mantissa, e, exponent = written.partition("e")
        if not e:
            return written
        power = int(exponent)
        if power == -5:  # the one power of ten that Python writes with an exponent and polars without
            return f"{value:.{len(mantissa.replace('.', '').lstrip('-')) + 4}f}"
        return f"{mantissa}e{'+' if power > 0 else ''}{power}"
    return str(value)


def _number(value: Any) -> Any:
    if isinstance(value, str):
        text = value.strip(WHITE)
        if not text:
            return MISSING
        value = float(text) if DECIMAL.fullmatch(text) else UNFIT
    elif isinstance(value, bool | int):
        try:
            value = float(value)
        except OverflowError:
            return UNFIT
    elif not isinstance(value, float):
        return UNFIT
    if value is UNFIT or math.isnan(value):
        return UNFIT if value is UNFIT else MISSING
    return value if math.isfinite(value) else UNFIT


def _integer(value: Any) -> Any:
    if isinstance(value, str):
        text = value.strip(WHITE)
        if not text:
            return MISSING
        if WHOLE.fullmatch(text) and -INT64 <= (whole := int(text[:40])) < INT64 and len(text) <= 40:
            return whole
        value = float(text) if DECIMAL.fullmatch(text) else UNFIT
    if isinstance(value, float):
        if math.isnan(value):
            return MISSING
        value = int(value) if math.isfinite(value) and value == math.floor(value) else UNFIT
    if isinstance(value, int) and -INT64 <= value < INT64:
        return int(value)
    return UNFIT


def _boolean(value: Any) -> Any:
    if isinstance(value, str):
        text = value.strip(WHITE).lower()
        if not text:
            return MISSING
        return True if text in TRUE else False if text in FALSE else UNFIT
    if isinstance(value, float) and math.isnan(value):
        return MISSING
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    return UNFIT


def _category(value: Any) -> Any:
    if isinstance(value, dict | list):
        return UNFIT
    if isinstance(value, float) and not math.isfinite(value):
        return MISSING if math.isnan(value) else UNFIT
    return _text(value).strip(WHITE) or MISSING


def _words(value: Any) -> Any:
    return UNFIT if isinstance(value, dict | list) else _text(value)


def _date(value: Any) -> Any:
    if not isinstance(value, str):
        return UNFIT
    text = value.strip(WHITE)
    if not text:
        return MISSING
    found = DAY.fullmatch(text)
    try:
        return UNFIT if found is None else date(int(found[1]), int(found[2]), int(found[3]))
    except ValueError:
        return UNFIT


def _moment(value: Any) -> Any:
    if not isinstance(value, str):
        return UNFIT
    text = value.strip(WHITE)
    if not text:
        return MISSING
    found = MOMENT.fullmatch(text)
    if found is None:
        return UNFIT
    year, month, day, hour, minute, second = (int(found[at] or 0) for at in range(1, 7))
    micros = int((found[7] or "0").ljust(6, "0")[:6])
    try:
        moment = datetime(year, month, day, hour, minute, second, micros, UTC)
        if found[8]:
            offset = timedelta(hours=int(found[9]), minutes=int(found[10]))
            moment += offset if found[8] == "-" else -offset
        return moment
    except (ValueError, OverflowError):
        return UNFIT


TYPES: dict[str, Typed] = {
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "category": _category,
    "text": _words,
    "date": _date,
    "datetime": _moment,
}


def _entering(kind: str) -> Callable[[Any], Any]:
    """What a typed value is when it enters the graph."""
    match kind:
        case "date":
            return lambda value: float((value - EPOCH).days)
        case "datetime":
            start = datetime(1970, 1, 1, tzinfo=UTC)
            return lambda value: float((value - start) // timedelta(seconds=1))
        case "category" | "text":
            return lambda value: value
        case _:
            return _single


def _single(value: Any) -> Any:
    if isinstance(value, int) and abs(value) > EXACT:
        # Rounded once, to single precision, not twice.
        import numpy as np

        return float(np.int64(value).astype(np.float32))
    return value


def _bound(column: Column, bound: float | str) -> Any:
    if column.type == "date":
        return date.fromisoformat(str(bound))
    if column.type == "datetime":
        moment = datetime.fromisoformat(str(bound))
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    return float(bound)


def checker(column: Column) -> Check:
    """A function that checks a value of a column by its contract and gives what enters the graph.

    A missing value that may be missing is NaN, or "" of a string.
    """
    typed, entering = TYPES[column.type], _entering(column.type)
    absent: Any = "" if column.type in {"category", "text"} else math.nan
    least = None if column.min is None else _bound(column, column.min)
    most = None if column.max is None else _bound(column, column.max)
    codes = None if column.values is None else frozenset(column.values)
    some = ", ".join((column.values or ())[:8]) + (", …" if len(column.values or ()) > 8 else "")

    def check(value: Any) -> tuple[Any, str | None]:
        found = MISSING if value is None else typed(value)
        if found is MISSING:
            return absent, None if column.nullable else "expected a value, found none"
        if found is UNFIT:
            return absent, f"expected {column.type}, found {shown(value)}"
        if least is not None and found < least:
            return absent, f"expected at least {_written(column.min)}, found {shown(value)}"
        if most is not None and found > most:
            return absent, f"expected at most {_written(column.max)}, found {shown(value)}"
        if codes is not None and found not in codes:
            return absent, f"expected one of {some}, found {shown(value)}"
        return entering(found), None

    return check


def _written(bound: float | str | None) -> str:
    return bound if isinstance(bound, str) else f"{bound:.15g}"
