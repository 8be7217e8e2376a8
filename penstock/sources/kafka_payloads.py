"""What the bytes of messages say: text, JSON, or records of a schema, as columns."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from penstock.sources.flattening import as_json_text, column, fields_of, tabled
from penstock.sources.streamed_json import exact_json, json_rows

__all__ = [
    "ALONE",
    "Decode",
    "Decoded",
    "Leaf",
    "Shape",
    "UnfitError",
    "as_base64",
    "base64_texts",
    "json_objects",
    "json_values",
    "shaped",
    "texts",
    "unmarked",
]

ALONE = "value"  # the column of a payload that is one value rather than a record
MAGIC = b"\0"
MARK = 5  # bytes of a registry's mark: the magic one, and the schema's number
SHOWN = 200  # characters of what is wrong


class UnfitError(Exception):
    """One payload is not what it should be; the text says what it is instead."""


@dataclass(frozen=True)
class Decoded:
    """Some payloads.

    Attributes:
        frame: The sound ones, in their order.
        problems: What is wrong with the others, by their numbers.
        alone: Whether each is one value, in the column ALONE, rather than a record.
    """

    frame: pl.DataFrame
    problems: dict[int, str] = field(default_factory=dict)
    alone: bool = False


Decode = Callable[[Sequence[bytes]], Decoded]


# --- without a schema -------------------------------------------------------------------------------


def texts(payloads: Sequence[bytes]) -> Decoded:
    """UTF-8."""
    found, problems = [], {}
    for number, payload in enumerate(payloads):
        try:
            found.append(payload.decode())
        except UnicodeDecodeError as error:
            problems[number] = f"expected UTF-8 text, found a byte that is none at {error.start}"
    return Decoded(pl.DataFrame({ALONE: found}, schema={ALONE: pl.String}), problems, alone=True)


def base64_texts(payloads: Sequence[bytes]) -> Decoded:
    """Any bytes, as base64."""
    found = [as_base64(payload) for payload in payloads]
    return Decoded(pl.DataFrame({ALONE: found}, schema={ALONE: pl.String}), alone=True)


def as_base64(payload: bytes) -> str:
    """As text."""
    return base64.b64encode(payload).decode()


def json_objects(payloads: Sequence[bytes]) -> Decoded:
    """JSON objects, as in files: nothing is rounded, and none says two things about one column."""
    frame, _, broken = json_rows(
        [(n, _unmarked_json(payload)) for n, payload in enumerate(payloads)], "UTF-8"
    )
    return Decoded(frame, {entry.position: entry.reason.removeprefix("line: ") for entry in broken})


def json_values(payloads: Sequence[bytes]) -> Decoded:
    """Any JSON. What is no object is in the column ALONE; fields of objects are in columns below it."""
    found, problems = [], {}
    for number, payload in enumerate(payloads):
        try:
            value = {ALONE: exact_json(_unmarked_json(payload).decode())}
            as_json_text(value).encode()  # half of a surrogate pair is no text
            names = [name for name, _ in fields_of(value)]
            if len(set(names)) < len(names):
                raise ValueError("found two values for one column")
            found.append(value)
        except (ValueError, RecursionError) as error:
            problems[number] = f"expected JSON, {first_words(error)}"
    return Decoded(tabled(found), problems, alone=True)


def _unmarked_json(payload: bytes) -> bytes:
    # No JSON begins with the magic byte: what does comes from a registry's serialiser.
    return payload[MARK:] if payload.startswith(MAGIC) else payload


def unmarked(payload: bytes) -> tuple[int, bytes]:
    """The number of a payload's schema, and what is of that schema.

    Raises:
        UnfitError: It does not begin with a registry's mark.
    """
    if len(payload) < MARK or not payload.startswith(MAGIC):
        raise UnfitError(f"expected a mark of the registry, found {payload[:MARK].hex(' ') or 'nothing'}")
    return int.from_bytes(payload[1:MARK], "big"), payload[MARK:]


def first_words(error: Exception) -> str:
    """What an error says, in one short line."""
    said = str(error).strip() or type(error).__name__
    return said.splitlines()[0][:SHOWN]


# --- by a schema ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Leaf:
    """A column of a schema.

    Attributes:
        name: outer__inner.
        get: Its value in a record, or None.
        kind: Its type; None if only the values tell.
    """

    name: str
    get: Callable[[Any], Any]
    kind: pl.DataType | None = None


@dataclass(frozen=True)
class Shape:
    """A schema.

    Attributes:
        parse: Makes a record of bytes; raises whatever it likes where it cannot.
        leaves: Its columns.
        word: Of what kind it is, for people.
        alone: Whether there is one column, ALONE, and no record.
    """

    parse: Callable[[bytes], Any]
    leaves: Sequence[Leaf]
    word: str
    alone: bool = False


def shaped(payloads: Sequence[bytes], find: Callable[[bytes], tuple[Shape, bytes]]) -> Decoded:
    """Payloads of one schema or of several, each as it was written: what a schema lacks is missing.

    Args:
        payloads: As they are.
        find: The shape of one, and what is of that shape; raises UnfitError.
    """
    groups: dict[int, tuple[Shape, list[int], list[Any]]] = {}
    problems: dict[int, str] = {}
    sound = 0
    for number, payload in enumerate(payloads):
        try:
            shape, body = find(payload)
        except UnfitError as error:
            problems[number] = str(error)
            continue
        try:
            record = shape.parse(body)
        except Exception as error:  # the parsers raise a dozen kinds for bytes that are not theirs
            problems[number] = f"expected {shape.word}, {first_words(error)}"
            continue
        _, numbers, records = groups.setdefault(id(shape), (shape, [], []))
        numbers.append(sound)
        records.append(record)
        sound += 1
    columns: dict[str, list[Any]] = {}
    kinds: dict[str, set[pl.DataType | None]] = {}
    for shape, numbers, records in groups.values():
        for leaf in shape.leaves:
            kinds.setdefault(leaf.name, set()).add(leaf.kind)
            values = list(map(leaf.get, records))
            if len(groups) == 1:
                columns[leaf.name] = values
                continue
            into = columns.setdefault(leaf.name, [None] * sound)
            for number, value in zip(numbers, values, strict=True):
                into[number] = value
    series = [_series(name, values, kinds[name]) for name, values in columns.items()]
    alone = any(shape.alone for shape, _, _ in groups.values())
    return Decoded(pl.DataFrame(series or None, height=sound), problems, alone)


def _series(name: str, values: list[Any], kinds: set[pl.DataType | None]) -> pl.Series:
    if len(kinds) == 1 and None not in kinds:
        return pl.Series(name, values, dtype=next(iter(kinds)))
    # Schemas differ about it, or say nothing. What JSON has no type for is written as text.
    if all(value is None for value in values):
        return pl.Series(name, values, dtype=next((kind for kind in kinds if kind is not None), pl.String()))
    return column(name, [_said(value) for value in values])


def _said(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value
