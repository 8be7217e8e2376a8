"""Messages of a Kafka topic: from where the last load ended to the end as it is when this one begins.

Where a load has come to is stored with its rows, not in a consumer group: partitions are assigned, no offset is ever
committed, and so no message is lost or doubled between the topic and the table. Transactions that were aborted are not
seen, those that are open not waited for.

confluent-kafka (librdkafka): it reads many times faster than clients in Python, and knows every way to log in.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import polars as pl
from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from penstock.config.loading import KafkaSource
from penstock.config.loading.kafka import Registry
from penstock.contract import QUARANTINE_SCHEMA
from penstock.errors import PenstockError
from penstock.sources.chunks import Chunk, Window
from penstock.sources.flattening import as_json_text, tabled
from penstock.sources.secrets import hidden, revealed

__all__ = ["read_kafka"]

FETCH = 5_000  # messages asked of librdkafka at a time
POLL_SECONDS = 0.2
MAGIC = 0
MARK = 5  # bytes: the magic one and the schema's number
SHOWN = 200

Decode = Callable[[bytes], Any]


def read_kafka(source: KafkaSource, window: Window) -> Iterator[Chunk]:
    """Read what is new in every partition.

    ``resume`` is ``{"offsets": {partition: next offset}}``; each chunk is a boundary. In place of one, ``start`` says where
    to begin, and a window's ``since``, if it is a time, that of the first message. Rows of a chunk are in the order of
    partition and offset; the source of each is ``topic[partition]``, its position the offset.

    Raises:
        PenstockError: The brokers cannot be reached or refuse us, there is no such topic, or offsets that were to be read
            are gone.
    """
    yield from _Reading(source, window).chunks()


class _UndecodableError(Exception):
    """What is wrong with one message."""


class _Reading:
    def __init__(self, source: KafkaSource, window: Window) -> None:
        self.source, self.window = source, window
        self.settings = _settings(source)
        self.value = _decoder(source.value, source)
        self.key = None if source.key == "none" else _decoder(source.key, source)

    def chunks(self) -> Iterator[Chunk]:
        admin = AdminClient(self.settings)
        partitions = self._partitions(admin)
        ends = self._offsets(admin, partitions, OffsetSpec.latest())
        lows = self._offsets(admin, partitions, OffsetSpec.earliest())
        at = self._begin(admin, partitions, lows, ends)
        consumer = Consumer(
            {
                **self.settings,
                "group.id": "penstock",  # asked for, and not used
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
            }
        )
        with closing(consumer):
            yield from self._read(consumer, at, ends)

    # --- where --------------------------------------------------------------------------------------

    def _partitions(self, admin: AdminClient) -> list[int]:
        source = self.source
        try:
            found = admin.list_topics(timeout=source.connect.total_seconds())
        except KafkaException as error:
            raise self._error(
                f"cannot be reached ({_words(error)})", "check source.brokers and source.security"
            ) from None
        topic = found.topics.get(source.topic)
        if topic is None or topic.error is not None:
            import difflib

            names = sorted(name for name in found.topics if not name.startswith("__"))
            near = difflib.get_close_matches(source.topic, names, n=1)
            raise self._error(
                "there is no such topic, or we may not see it",
                f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names[:20]) or 'none'}",
            )
        return sorted(topic.partitions)

    def _offsets(self, admin: AdminClient, partitions: list[int], spec: OffsetSpec) -> dict[int, int]:
        asked = {TopicPartition(self.source.topic, number): spec for number in partitions}
        try:
            found = admin.list_offsets(
                asked,
                isolation_level=IsolationLevel.READ_COMMITTED,
                request_timeout=self.source.connect.total_seconds(),
            )
            return {part.partition: future.result().offset for part, future in found.items()}
        except KafkaException as error:
            raise self._error(
                f"offsets cannot be asked for ({_words(error)})", "may we describe the topic?"
            ) from None

    def _begin(
        self, admin: AdminClient, partitions: list[int], lows: dict[int, int], ends: dict[int, int]
    ) -> dict[int, int]:
        """The next offset of each partition."""
        known = {int(number): int(offset) for number, offset in self.window.resume.get("offsets", {}).items()}
        since = self.window.since
        by_time: dict[int, int] = {}
        if not known and since is not None and hasattr(since, "timestamp"):
            by_time = self._offsets(
                admin, partitions, OffsetSpec.for_timestamp(int(since.timestamp() * 1000))
            )
        at = {}
        for number in partitions:
            if number in known:
                at[number] = self._still_there(number, known[number], lows[number], ends[number])
            elif number in by_time:
                at[number] = ends[number] if by_time[number] < 0 else by_time[number]
            elif self.source.start == "latest" and not known:
                at[number] = ends[number]
            else:
                # A partition that is new since the last load is read from its beginning: its messages are new, too.
                at[number] = lows[number]
        return at

    def _still_there(self, number: int, offset: int, low: int, end: int) -> int:
        if offset > end:
            raise self._error(
                f"partition {number} ends at {end}, but was read up to {offset}",
                "was the topic deleted and made anew? Then load it with --full, into a table of its own",
            )
        if offset < low:
            if self.source.on_gone == "fail":
                raise self._error(
                    f"partition {number}: offsets {offset} to {low - 1} are gone before they were read",
                    "retention has removed them; on_gone: earliest goes on with what is there",
                )
            return low
        return offset

    # --- reading ------------------------------------------------------------------------------------

    def _read(self, consumer: Consumer, at: dict[int, int], ends: dict[int, int]) -> Iterator[Chunk]:
        topic = self.source.topic
        open_ = {number for number in at if at[number] < ends[number]}
        consumer.assign([TopicPartition(topic, number, at[number]) for number in sorted(open_)])
        waiting: list[Message] = []
        heard = time.monotonic()
        while open_:
            messages = consumer.consume(min(FETCH, self.window.batch_rows), POLL_SECONDS)
            if messages:
                heard = time.monotonic()
            elif time.monotonic() - heard > self.source.patience.total_seconds():
                left = ", ".join(f"{number} at {at[number]} of {ends[number]}" for number in sorted(open_))
                raise self._error(
                    f"no message comes (partitions {left})",
                    "is the broker well? More patience: source.patience",
                )
            for message in messages:
                number = message.partition()
                error = message.error()
                if error is not None:
                    if error.code() == KafkaError._PARTITION_EOF:
                        # What is left are marks of transactions, which nobody sees.
                        at[number] = max(at[number], ends[number])
                        open_.discard(number)
                        continue
                    raise self._error(f"partition {number}: {_words(error)}", "is the broker well?")
                if number not in open_:
                    continue
                if message.offset() >= ends[number]:
                    at[number] = ends[number]
                    open_.discard(number)
                    continue
                waiting.append(message)
                at[number] = message.offset() + 1
                if at[number] >= ends[number]:
                    open_.discard(number)
            while len(waiting) >= self.window.batch_rows:
                head, waiting = waiting[: self.window.batch_rows], waiting[self.window.batch_rows :]
                yield self._chunk(head, _where(at, waiting), ends)
        yield self._chunk(waiting, at, ends)

    def _chunk(self, messages: list[Message], at: dict[int, int], ends: dict[int, int]) -> Chunk:
        messages.sort(key=lambda message: (message.partition(), message.offset()))
        rows: list[dict[str, Any]] = []
        sources: list[str] = []
        positions: list[int] = []
        broken: list[tuple[str, int, str, str]] = []
        reasons: dict[str, int] = {}
        for message in messages:
            name = f"{self.source.topic}[{message.partition()}]"
            try:
                row = self._row(message)
            except _UndecodableError as error:
                rule, words = error.args
                reasons[rule] = reasons.get(rule, 0) + 1
                broken.append((name, message.offset(), words, _raw(message)))
                continue
            if row is not None:
                rows.append(row)
                sources.append(name)
                positions.append(message.offset())
        return Chunk(
            tabled(rows),
            pl.Series(sources, dtype=pl.String),
            pl.Series(positions, dtype=pl.Int64),
            pl.DataFrame(broken, schema=QUARANTINE_SCHEMA, orient="row"),
            reasons,
            boundary=True,
            resume={"offsets": {str(number): offset for number, offset in sorted(at.items())}},
            remaining=sum(max(0, ends[number] - offset) for number, offset in at.items()),
        )

    def _row(self, message: Message) -> dict[str, Any] | None:
        content = message.value()
        if content is None:
            if self.source.tombstones == "skip":
                return None
            raise _UndecodableError("value: missing", "value: expected one, found none (a tombstone)")
        value = self._decoded("value", self.value, content)
        row = dict(value) if isinstance(value, dict) else {"value": value}
        if not isinstance(value, dict) and self.source.value != "text":
            raise _UndecodableError(
                "value: object", f"value: expected an object, found {as_json_text(value)[:SHOWN]}"
            )
        if self.key is not None:
            key = message.key()
            row["kafka_key"] = None if key is None else self._decoded("key", self.key, key)
        if self.source.metadata:
            row["kafka_partition"], row["kafka_offset"] = message.partition(), message.offset()
            kind, moment = message.timestamp()
            row["kafka_timestamp"] = moment if kind else None
            headers = {
                name: None if v is None else v.decode(errors="replace") for name, v in message.headers() or []
            }
            row["kafka_headers"] = as_json_text(headers) if headers else None
        return row

    @staticmethod
    def _decoded(what: str, decode: Decode, content: bytes) -> Any:
        try:
            return decode(content)
        except PenstockError:
            raise
        except Exception as error:
            words = (str(error).strip() or type(error).__name__).splitlines()[0][:SHOWN]
            raise _UndecodableError(f"{what}: decoding", f"{what}: cannot be decoded ({words})") from error

    def _error(self, message: str, hint: str) -> PenstockError:
        return PenstockError(f"{self.source.brokers} {self.source.topic}: {hidden(message)}", hint=hint)


def _where(at: dict[int, int], waiting: list[Message]) -> dict[int, int]:
    """The next offset of each partition, if what waits is read again."""
    back = dict(at)
    for message in waiting:
        back[message.partition()] = min(back[message.partition()], message.offset())
    return back


def _raw(message: Message) -> str:
    """A message as it is, so that it can be mended and sent again."""
    value, key = message.value(), message.key()
    return as_json_text(
        {
            "value_base64": None if value is None else base64.b64encode(value).decode(),
            "key_base64": None if key is None else base64.b64encode(key).decode(),
        }
    )


def _words(error: Any) -> str:
    inner = error.args[0] if isinstance(error, KafkaException) and error.args else error
    return hidden(str(inner.str()) if isinstance(inner, KafkaError) else str(inner))


def _settings(source: KafkaSource) -> dict[str, Any]:
    security = source.security
    settings: dict[str, Any] = {
        "bootstrap.servers": source.brokers,
        "security.protocol": security.protocol,
        "log_level": 0,
        # What librdkafka would write to standard error comes back as errors.
        "error_cb": lambda error: None,  # noqa: ARG005
        **{name: revealed(value) for name, value in source.options.items()},
    }
    if security.mechanism:
        settings["sasl.mechanism"] = security.mechanism
        settings["sasl.username"] = revealed(security.user or "")
        settings["sasl.password"] = revealed(security.password or "")
    if security.ca:
        settings["ssl.ca.location"] = security.ca
    return settings


# --- what messages hold -----------------------------------------------------------------------------


def _decoder(form: str, source: KafkaSource) -> Decode:
    if form == "text":
        return lambda content: content.decode()
    if form == "json":
        return lambda content: orjson.loads(content[MARK:] if content[:1] == b"\0" else content)
    if form == "protobuf":
        return _protobuf(source)
    assert source.registry is not None
    return _avro(source.registry)


def _avro(registry: Registry) -> Decode:
    import fastavro

    schema = _schemas(registry)

    def decode(content: bytes) -> Any:
        if len(content) < MARK or content[0] != MAGIC:
            raise ValueError("no mark of a schema registry at its beginning")
        parsed = schema(int.from_bytes(content[1:MARK], "big"))
        stream = io.BytesIO(content)
        stream.seek(MARK)
        value = fastavro.schemaless_reader(stream, parsed, None)
        if stream.tell() != len(content):
            raise ValueError(f"{len(content) - stream.tell()} bytes more than its schema has")
        return _as_json_has_it(value)

    return decode


def _schemas(registry: Registry) -> Callable[[int], Any]:
    """Schemas by their number, each asked for once."""
    import fastavro
    from confluent_kafka.schema_registry import SchemaRegistryClient
    from confluent_kafka.schema_registry.error import SchemaRegistryError

    settings: dict[str, Any] = {"url": revealed(registry.url, url=True)}
    if registry.user is not None:
        settings["basic.auth.user.info"] = f"{revealed(registry.user)}:{revealed(registry.password or '')}"
    client = SchemaRegistryClient(settings)

    @cache
    def schema(number: int) -> Any:
        try:
            found = client.get_schema(number)
            named: dict[str, Any] = {}
            _refer(found.references or [], named)
        except SchemaRegistryError as error:
            if error.http_status_code == 404:
                raise ValueError(f"the registry has no schema {number}") from error
            raise _registry_error(registry, error) from None
        except Exception as error:
            raise _registry_error(registry, error) from None
        return fastavro.parse_schema(orjson.loads(found.schema_str), named_schemas=named)

    def _refer(references: list[Any], named: dict[str, Any]) -> None:
        for reference in references:
            version = client.get_version(reference.subject, reference.version)
            _refer(version.schema.references or [], named)
            fastavro.parse_schema(orjson.loads(version.schema.schema_str), named_schemas=named)

    return schema


def _registry_error(registry: Registry, error: Exception) -> PenstockError:
    return PenstockError(
        f"source.registry: {hidden(registry.url)}: {hidden(str(error)).splitlines()[0][:SHOWN]}",
        hint="is it up, and right?",
    )


def _protobuf(source: KafkaSource) -> Decode:
    from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

    path = Path(str(source.descriptors))
    try:
        files = descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes())
        pool = descriptor_pool.DescriptorPool()
        for file in files.file:
            pool.Add(file)
        kind = message_factory.GetMessageClass(pool.FindMessageTypeByName(str(source.message)))
    except (OSError, KeyError, TypeError, ValueError, Exception) as error:
        raise PenstockError(
            f"source.descriptors: {path}: no message {source.message!r} is to be had from it ({error})",
            hint="protoc --include_imports --descriptor_set_out=FILE my.proto",
        ) from error

    def decode(content: bytes) -> Any:
        if content[:1] == b"\0":
            content = content[_after_indexes(content) :]
        return json_format.MessageToDict(
            kind.FromString(content),
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
        )

    return decode


def _after_indexes(content: bytes) -> int:
    """Where the message begins behind the registry's mark: the schema's number, and a list of varints (zigzag)."""
    at = MARK
    count, at = _varint(content, at)
    for _ in range(count):
        _, at = _varint(content, at)
    return at


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
        shift += 7


def _as_json_has_it(value: Any) -> Any:
    """Avro's values in JSON's: times as ISO 8601, decimals as text, bytes as base64."""
    if isinstance(value, dict):
        return {name: _as_json_has_it(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json_has_it(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
