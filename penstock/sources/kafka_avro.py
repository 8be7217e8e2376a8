"""Avro: schemas as columns.

fastavro, which confluent-kafka's own deserialiser uses too: without the latter's rules a message takes half the time.
A map is JSON text: its keys are values, not columns. So is a union of several types that are not simple ones.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import polars as pl

from penstock.errors import PenstockError
from penstock.sources.flattening import SEPARATOR, as_json_text
from penstock.sources.kafka_payloads import (
    ALONE,
    Decode,
    Decoded,
    Leaf,
    Shape,
    UnfitError,
    as_base64,
    first_words,
    shaped,
    unmarked,
)
from penstock.sources.kafka_registry import Found, Schemas, loaded

__all__ = ["avro_by_file", "avro_by_registry"]

WORD = "Avro"
KINDS: dict[str, pl.DataType] = {
    "boolean": pl.Boolean(),
    "int": pl.Int64(),
    "long": pl.Int64(),
    "float": pl.Float64(),
    "double": pl.Float64(),
    "string": pl.String(),
    "enum": pl.String(),
    "null": pl.String(),
}
LOGICAL: dict[str, pl.DataType] = {
    "date": pl.Date(),
    "timestamp-millis": pl.Datetime("us", "UTC"),
    "timestamp-micros": pl.Datetime("us", "UTC"),
    "local-timestamp-millis": pl.Datetime("us"),
    "local-timestamp-micros": pl.Datetime("us"),
}
LARGEST_DECIMAL = 38  # digits


def avro_by_file(path: str, key: str) -> Decode:
    """Payloads of one schema, without a mark.

    Args:
        path: Of the schema.
        key: Of conf/, for errors.

    Raises:
        PenstockError: It is not there, or no schema.
    """
    try:
        shape = _shape(json.loads(Path(path).read_text(encoding="utf-8")), [])
    except (OSError, ValueError, UnfitError) as error:
        raise PenstockError(
            f"source.{key}: {path}: no Avro schema ({first_words(error)})", hint="a file of JSON, .avsc"
        ) from error
    return lambda payloads: shaped(payloads, lambda payload: (shape, payload))


def avro_by_registry(schemas: Schemas) -> Decode:
    """Payloads that say which schema of a registry is theirs."""
    shapes: dict[int, Shape | UnfitError] = {}

    def find(payload: bytes) -> tuple[Shape, bytes]:
        number, body = unmarked(payload)
        shape = shapes.get(number)
        if shape is None:
            shape = shapes[number] = _found(schemas[number])
        if isinstance(shape, UnfitError):
            raise shape
        return shape, body

    def decode(payloads: Sequence[bytes]) -> Decoded:
        return shaped(payloads, find)

    return decode


def _found(found: Found) -> Shape | UnfitError:
    if found.kind != "AVRO":
        return UnfitError(f"expected Avro, found a schema of {found.kind}")
    try:
        return _shape(loaded(found.text), [loaded(text) for _, text in found.references])
    except UnfitError as error:
        return error


def _shape(schema: Any, references: Sequence[Any]) -> Shape:
    """What reads payloads of a schema.

    Raises:
        UnfitError: It is none, or has two columns of one name.
    """
    import fastavro
    from fastavro.schema import SchemaParseException

    named: dict[str, Any] = {}
    try:
        for reference in references:
            fastavro.parse_schema(reference, named_schemas=named)
        parsed = fastavro.parse_schema(schema, named_schemas=named)
    except (SchemaParseException, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnfitError(f"its schema is not Avro's: {first_words(error)}") from None
    read = fastavro.schemaless_reader

    def parse(body: bytes) -> Any:
        stream = io.BytesIO(body)
        try:
            value = read(stream, parsed, None)
        except (EOFError, IndexError, StopIteration):
            raise ValueError(f"found it cut short after {len(body)} bytes") from None
        if stream.tell() != len(body):
            raise ValueError(f"found {len(body) - stream.tell()} bytes more than it has")
        return value

    if _is_record(parsed, named):
        leaves = list(_leaves(parsed, named, (), ()))
        names = [leaf.name for leaf in leaves]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UnfitError(f"its schema has two fields for the column {twice!r}")
        return Shape(parse, leaves, WORD)
    kind, said = _simple(parsed, named)
    return Shape(parse, [Leaf(ALONE, _through((), said), kind)], WORD, alone=True)


def _resolved(schema: Any, named: Mapping[str, Any]) -> Any:
    if isinstance(schema, str) and schema in named:
        return named[schema]
    if isinstance(schema, list):  # "null" and one more is that one
        others = [part for part in schema if part not in ("null", {"type": "null"})]
        return _resolved(others[0], named) if len(others) == 1 else schema
    if isinstance(schema, dict) and isinstance(schema.get("type"), dict | list):
        return _resolved(schema["type"], named)
    return schema


def _is_record(schema: Any, named: Mapping[str, Any]) -> bool:
    found = _resolved(schema, named)
    return isinstance(found, dict) and found.get("type") in {"record", "error"} and bool(found["fields"])


def _leaves(
    schema: Any, named: Mapping[str, Any], path: tuple[str, ...], above: tuple[str, ...]
) -> Iterator[Leaf]:
    """The columns of a record. One that contains itself is JSON text from there on."""
    record = _resolved(schema, named)
    above = (*above, record["name"])
    for field in record["fields"]:
        inner = _resolved(field["type"], named)
        place = (*path, field["name"])
        if _is_record(inner, named) and inner["name"] not in above:
            yield from _leaves(inner, named, place, above)
        else:
            kind, said = _simple(inner, named)
            yield Leaf(SEPARATOR.join(place), _through(place, said), kind)


def _simple(schema: Any, named: Mapping[str, Any]) -> tuple[pl.DataType | None, Callable[[Any], Any] | None]:
    """The type of a column, and what makes its values of those that fastavro gives."""
    found = _resolved(schema, named)
    name = found if isinstance(found, str) else found.get("type") if isinstance(found, dict) else None
    logical = found.get("logicalType") if isinstance(found, dict) else None
    if logical in LOGICAL:
        return LOGICAL[logical], None
    if logical == "decimal" and found.get("precision", 99) <= LARGEST_DECIMAL:
        return pl.Decimal(LARGEST_DECIMAL, found.get("scale", 0)), None
    if logical is not None and name in {"bytes", "fixed", "int", "long", "string"}:
        return None, _plain  # a time of day, a UUID, what fastavro does not know
    if name in {"bytes", "fixed"}:
        return pl.String(), as_base64
    if isinstance(name, str) and name in KINDS:
        return KINDS[name], None
    return None, _plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict | list | tuple):
        return as_json_text(value)
    if isinstance(value, bytes):
        return as_base64(value)
    return value if isinstance(value, bool | int | float | str) else _text(value)


def _text(value: Any) -> str:
    return str(value.isoformat()) if hasattr(value, "isoformat") else str(value)


def _through(path: tuple[str, ...], said: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    """What gets the value at the end of a path; None where any record on it is missing."""
    if len(path) == 1 and said is None:
        return itemgetter(path[0])

    def get(record: Any) -> Any:
        for name in path:
            if record is None:
                return None
            record = record[name]
        return record if said is None or record is None else said(record)

    return get
