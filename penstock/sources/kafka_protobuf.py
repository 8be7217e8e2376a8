"""Protobuf: messages as columns.

A registry is asked for descriptors, not for .proto text, so that no compiler is needed. A field that knows whether it
is set (optional, of a oneof, a message) is missing where it is not; any other then has its default, which is all
that protobuf can tell. Values of an enum are its names; a list or a map is JSON text.
"""

from __future__ import annotations

import base64
import binascii
import importlib
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC
from pathlib import Path
from typing import Any

import polars as pl

from penstock.errors import PenstockError
from penstock.sources.flattening import SEPARATOR, as_json_text
from penstock.sources.kafka_payloads import (
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
from penstock.sources.kafka_registry import Found, Schemas

__all__ = ["protobuf_by_file", "protobuf_by_registry"]

WORD = "protobuf"
SCHEMA = "penstock/schema.proto"
# By FieldDescriptor.cpp_type; of 64 bits without a sign, only the values tell whether they fit.
KINDS: dict[int, pl.DataType | None] = {
    1: pl.Int64(),
    2: pl.Int64(),
    3: pl.Int64(),
    4: None,
    5: pl.Float64(),
    6: pl.Float64(),
    7: pl.Boolean(),
    8: pl.String(),
    9: pl.String(),
}
ENUM, BYTES = 8, 12  # FieldDescriptor.cpp_type, FieldDescriptor.type
WELL_KNOWN = "google.protobuf."
WRAPPED = "Value"  # DoubleValue, StringValue, …
NOT_WRAPPERS = {"google.protobuf.Value", "google.protobuf.ListValue"}
# What schemas import without saying where it is: modules that come with the clients.
MODULES = {"google/": "google.", "confluent/": "confluent_kafka.schema_registry.confluent."}


def protobuf_by_file(path: str, message: str, key: str) -> Decode:
    """Payloads of one message; a registry's mark before them is left out.

    Args:
        path: Of a set of descriptors.
        message: The full name.
        key: Of conf/, for errors.

    Raises:
        PenstockError: It is not there, or has no such message.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool

    pool = descriptor_pool.DescriptorPool()
    hint = "protoc --include_imports --descriptor_set_out=FILE my.proto"
    try:
        files = descriptor_pb2.FileDescriptorSet.FromString(Path(path).read_bytes()).file
        for file in files:
            pool.Add(file)
        shape = _shape(pool.FindMessageTypeByName(message))
    except KeyError:
        names = [f"{file.package}.{kind.name}".lstrip(".") for file in files for kind in file.message_type]
        raise PenstockError(
            f"source.{key}: {path}: there is no message {message!r}",
            hint=f"there are: {', '.join(names[:20]) or 'none'}",
        ) from None
    except Exception as error:  # of protobuf, whose kinds depend on how it was built
        raise PenstockError(
            f"source.{key}: {path}: no set of descriptors ({first_words(error)})", hint=hint
        ) from error

    def find(payload: bytes) -> tuple[Shape, bytes]:
        # No message begins with a zero: there is no field of that number.
        return shape, payload if not payload.startswith(b"\0") else _indexes(unmarked(payload)[1])[1]

    return lambda payloads: shaped(payloads, find)


def protobuf_by_registry(schemas: Schemas) -> Decode:
    """Payloads that say which schema of a registry is theirs, and which of its messages."""
    pools: dict[int, Any] = {}
    shapes: dict[tuple[int, tuple[int, ...]], Shape | UnfitError] = {}

    def find(payload: bytes) -> tuple[Shape, bytes]:
        number, rest = unmarked(payload)
        indexes, body = _indexes(rest)
        shape = shapes.get((number, indexes))
        if shape is None:
            try:
                if number not in pools:
                    pools[number] = _pool(schemas[number])
                shape = _shape(_message(pools[number], indexes))
            except UnfitError as error:
                shape = error
            shapes[number, indexes] = shape
        if isinstance(shape, UnfitError):
            raise shape
        return shape, body

    def decode(payloads: Sequence[bytes]) -> Decoded:
        return shaped(payloads, find)

    return decode


# --- schemas ----------------------------------------------------------------------------------------


def _pool(found: Found) -> Any:
    """A schema, as SCHEMA, and what it needs."""
    from google.protobuf import descriptor_pb2, descriptor_pool

    if found.kind != "PROTOBUF":
        raise UnfitError(f"expected protobuf, found a schema of {found.kind}")
    pool = descriptor_pool.DescriptorPool()
    try:
        for name, text in [*found.references, ("", found.text)]:
            file = descriptor_pb2.FileDescriptorProto.FromString(base64.b64decode(text, validate=True))
            file.name = name or SCHEMA
            for needed in file.dependency:
                _known_to_all(needed, pool)
            pool.Add(file)
        pool.FindFileByName(SCHEMA)  # what is wrong is found when it is looked for
    except binascii.Error:
        raise PenstockError(
            "source.registry: gives protobuf schemas as text where descriptors were asked for (format=serialized)",
            hint="give the descriptors as a file: source.value_schema and source.value_message",
        ) from None
    except Exception as error:  # of protobuf, whose kinds depend on how it was built
        raise UnfitError(f"its schema is not protobuf's: {first_words(error)}") from None
    return pool


def _known_to_all(name: str, pool: Any) -> None:
    """Put a file that every compiler has into a pool, and what it needs."""
    for begin, module in MODULES.items():
        if name.startswith(begin) and not _is_in(name, pool):
            inside = name.removeprefix(begin).removesuffix(".proto").replace("/", ".")
            try:
                found = importlib.import_module(f"{module}{inside}_pb2").DESCRIPTOR
            except ImportError:
                return  # a file of the schema's own, by such a name
            for needed in found.dependencies:
                _known_to_all(needed.name, pool)
            pool.AddSerializedFile(found.serialized_pb)


def _is_in(name: str, pool: Any) -> bool:
    try:
        pool.FindFileByName(name)
    except KeyError:
        return False
    return True


def _message(pool: Any, indexes: Sequence[int]) -> Any:
    """A message by its place in the schema, and in the messages around it."""
    from google.protobuf import descriptor_pb2

    file = descriptor_pb2.FileDescriptorProto()
    pool.FindFileByName(SCHEMA).CopyToProto(file)
    name, kinds = file.package, file.message_type
    for index in indexes:
        if not 0 <= index < len(kinds):
            raise UnfitError(f"expected a message of its schema, found the number {list(indexes)}")
        name, kinds = f"{name}.{kinds[index].name}".lstrip("."), kinds[index].nested_type
    return pool.FindMessageTypeByName(name)


def _indexes(rest: bytes) -> tuple[tuple[int, ...], bytes]:
    """Which message of a schema it is, and what follows: a list of varints (zigzag), or 0 for the first message.

    Raises:
        UnfitError: There is no such list.
    """
    count, at = _varint(rest, 0)
    if count == 0:
        return (0,), rest[at:]
    if not 0 < count <= len(rest):
        raise UnfitError(f"expected which message it is, found {count} numbers")
    found = []
    for _ in range(count):
        index, at = _varint(rest, at)
        found.append(index)
    return tuple(found), rest[at:]


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(content) and shift < 64:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
        shift += 7
    raise UnfitError("expected which message it is, found the end")


# --- columns ----------------------------------------------------------------------------------------


def _shape(descriptor: Any) -> Shape:
    from google.protobuf import message_factory

    leaves = list(_leaves(descriptor, (), ()))
    names = [leaf.name for leaf in leaves]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UnfitError(f"its schema has two fields for the column {twice!r}")
    kind = message_factory.GetMessageClass(descriptor)

    def parse(body: bytes) -> Any:
        try:
            return kind.FromString(body)
        except Exception:
            raise ValueError(f"found {len(body)} bytes that are no {descriptor.full_name}") from None

    return Shape(parse, leaves, WORD)


def _leaves(descriptor: Any, path: tuple[str, ...], above: tuple[str, ...]) -> Iterator[Leaf]:
    """The columns of a message. One that contains itself is JSON text from there on."""
    above = (*above, descriptor.full_name)
    for field in descriptor.fields:
        place = (*path, field.name)
        inner = field.message_type
        divided = (
            inner is not None
            and not _many(field)
            and not inner.full_name.startswith(WELL_KNOWN)
            and inner.full_name not in above
            and inner.fields
        )
        if divided:
            yield from _leaves(inner, place, above)
        else:
            kind, said = _simple(field)
            yield Leaf(SEPARATOR.join(place), _through(path, field, said), kind)


def _many(field: Any) -> bool:
    return bool(field.is_repeated)


def _simple(field: Any) -> tuple[pl.DataType | None, Callable[[Any], Any]]:
    """The type of a column, and what makes its values of those that protobuf gives."""
    if _many(field):
        return pl.String(), _listed(field)
    inner = field.message_type
    if inner is None:
        return KINDS[field.cpp_type], _of_one(field)
    if inner.full_name == "google.protobuf.Timestamp":
        return pl.Datetime("us", "UTC"), lambda value: value.ToDatetime(tzinfo=UTC)
    if _is_wrapper(inner):
        value_of = inner.fields_by_name["value"]
        said = _of_one(value_of)
        return KINDS[value_of.cpp_type], lambda value: said(value.value)
    return pl.String(), _as_json


def _is_wrapper(message: Any) -> bool:
    name = message.full_name
    return bool(name.startswith(WELL_KNOWN) and name.endswith(WRAPPED) and name not in NOT_WRAPPERS)


def _of_one(field: Any) -> Callable[[Any], Any]:
    """What makes a value of one scalar."""
    if field.cpp_type == ENUM:
        names = {number: value.name for number, value in field.enum_type.values_by_number.items()}
        return lambda value: names.get(value, str(value))  # a number that the schema has no name for
    if field.type == BYTES:
        return as_base64
    return lambda value: value


def _listed(field: Any) -> Callable[[Any], Any]:
    """What makes JSON text of a list or a map; None of an empty one, which is the same as none at all."""
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        one = _item(inner.fields_by_name["value"])
        return lambda value: as_json_text({_key(key): one(value[key]) for key in value}) if value else None
    one = _item(field)
    return lambda value: as_json_text([one(item) for item in value]) if value else None


def _key(key: Any) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


def _item(field: Any) -> Callable[[Any], Any]:
    return _of_one(field) if field.message_type is None else _as_dict


def _as_dict(message: Any) -> Any:
    from google.protobuf import json_format

    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def _as_json(message: Any) -> str:
    found = _as_dict(message)
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False, separators=(",", ":"))


def _through(path: tuple[str, ...], field: Any, said: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """What gets the value of a field of a message; None where it, or any message around it, is not set."""
    name = field.name
    asks = field.has_presence

    def get(message: Any) -> Any:
        for part in path:
            if not message.HasField(part):
                return None
            message = getattr(message, part)
        if asks and not message.HasField(name):
            return None
        return said(getattr(message, name))

    return get
