"""Nested rows made flat: a field of an object is a column of its own, a list is JSON text.

``{"id": 1, "buyer": {"name": "Ida"}, "tags": ["a"]}`` → id, buyer__name, tags.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import polars as pl

from penstock.errors import PenstockError

__all__ = ["SEPARATOR", "as_json_text", "column", "fields_of", "flat", "tabled"]

SEPARATOR = "__"
INT64 = range(-(2**63), 2**63)
EXACT = 2**53  # an integer is one number of Float64 up to here


# --- frames -----------------------------------------------------------------------------------------


def flat(frame: pl.DataFrame) -> pl.DataFrame:
    """Divide structs into columns, outer__inner, and write lists and arrays as JSON text.

    A struct that is missing has its fields missing; one without fields is JSON text too. Other columns stay as
    they are, and all are in the order of the frame.

    Raises:
        PenstockError: A field would bear the name of another column.
    """
    if not any(kind.is_nested() for kind in frame.dtypes):
        return frame
    columns: dict[str, pl.Series] = {}
    for series in frame:
        for column in _divided(series):
            if column.name in columns:
                raise _twice(column.name)
            columns[column.name] = column
    return pl.DataFrame(list(columns.values()), height=frame.height)


def _divided(series: pl.Series) -> Iterator[pl.Series]:
    if isinstance(series.dtype, pl.Struct) and series.dtype.fields:
        for field in series.dtype.fields:
            # A field of a missing struct is missing, which `unnest` would also say of one that is there.
            yield from _divided(
                series.struct.field(field.name).alias(f"{series.name}{SEPARATOR}{field.name}")
            )
    elif series.dtype.is_nested():
        yield _as_json(series)
    else:
        yield series


def _as_json(series: pl.Series) -> pl.Series:
    """Each value as compact JSON text; what is missing stays missing."""
    if not _json_knows(series):
        text = [None if value is None else as_json_text(value) for value in series.to_list()]
        return pl.Series(series.name, text, dtype=pl.String)
    # polars encodes structs alone: wrapped in one, each value is between `{"v":` and `}`.
    encoded = pl.struct(pl.col(series.name).alias("v")).struct.json_encode()
    return (
        series.to_frame()
        .select(
            pl.when(pl.col(series.name).is_not_null())
            .then(encoded.str.strip_prefix('{"v":').str.strip_suffix("}"))
            .alias(series.name)
        )
        .to_series()
    )


def _json_knows(series: pl.Series) -> bool:
    """Whether polars writes every value inside as what it is: of NaN it makes null, and bytes it cannot write."""
    kind = series.dtype
    if isinstance(kind, pl.List | pl.Array):
        return _json_knows(series.explode())
    if isinstance(kind, pl.Struct):
        return all(_json_knows(series.struct.field(field.name)) for field in kind.fields)
    if kind.is_float():
        return bool(series.is_finite().all())
    return kind not in (pl.Binary, pl.Object, pl.Int128, pl.UInt128)


# --- records ----------------------------------------------------------------------------------------


def tabled(records: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Records as JSON has them, as a flat frame of shape (n_records, n_columns).

    What a value becomes depends on its column in these records alone. Only booleans, integers within 64 bits,
    numbers or text: these. Integers among numbers are numbers if none is rounded by it. Anything else is text: a
    word as it is, a number or truth value as JSON writes it. A list, and an object without keys, is JSON text.
    A key that a record lacks is missing, as is null; a record without keys is a row without values.

    Raises:
        PenstockError: A record has two values for one column, as in ``{"a": {"b": 1}, "a__b": 2}``.
    """
    height = len(records)
    columns = _plain(records)
    if columns is not None:
        return pl.DataFrame([column(name, values) for name, values in columns.items()] or None, height=height)
    columns = {}
    for number, record in enumerate(records):
        for name, value in fields_of(record):
            values = columns.get(name)
            if values is None:
                columns[name] = values = []
            if len(values) < number:
                values.extend([None] * (number - len(values)))
            elif len(values) > number:
                raise _twice(name)
            values.append(value)
    series = []
    for name, values in columns.items():
        values.extend([None] * (height - len(values)))
        series.append(column(name, values))
    return pl.DataFrame(series or None, height=height)


def _plain(records: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]] | None:
    """The columns of records that have nothing nested in them; None if any has. It is the quicker way."""
    columns = {}
    for name in dict.fromkeys(chain.from_iterable(records)):
        values = [record.get(name) for record in records]
        if any(issubclass(kind, list | tuple | Mapping) for kind in set(map(type, values))):
            return None
        columns[name] = values
    return columns


def fields_of(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """What a record says, by the names of columns."""
    for key, value in record.items():
        if isinstance(value, Mapping) and value:
            yield from fields_of(value, f"{prefix}{key}{SEPARATOR}")
        elif isinstance(value, list | tuple | Mapping):
            yield f"{prefix}{key}", as_json_text(value)
        else:
            yield f"{prefix}{key}", value


def column(name: str, values: list[Any]) -> pl.Series:
    """Values as a column: see ``tabled``."""
    kinds = {type(value) for value in values} - {type(None)}
    if not kinds or kinds == {str}:
        return pl.Series(name, values, dtype=pl.String)
    if kinds == {bool}:
        return pl.Series(name, values, dtype=pl.Boolean)
    if kinds == {int} and all(value is None or value in INT64 for value in values):
        return pl.Series(name, values, dtype=pl.Int64)
    whole = [value for value in values if type(value) is int]
    if kinds <= {int, float} and float in kinds and all(-EXACT <= value <= EXACT for value in whole):
        numbers = [None if value is None else float(value) for value in values]
        return pl.Series(name, numbers, dtype=pl.Float64)
    return pl.Series(name, [_as_text(value) for value in values], dtype=pl.String)


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else _unquoted(as_json_text(value))


def _unquoted(text: str) -> str:
    # What JSON has no word for (a date, a decimal) is text already.
    return str(json.loads(text)) if text.startswith('"') else text


def as_json_text(value: Any) -> str:
    """Compact JSON; NaN and infinity as Python writes them, bytes as base64, and what JSON has no word for as text."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_said)


def _said(value: Any) -> str:
    if isinstance(value, bytes):
        import base64

        return base64.b64encode(value).decode()
    return str(value)


def _twice(name: str) -> PenstockError:
    outer = name.rpartition(SEPARATOR)[0]
    return PenstockError(
        f"two values for the column {name!r}: an object {outer!r} has it as a field, and it is there by itself",
        hint="leave one of them out at the source",
    )
